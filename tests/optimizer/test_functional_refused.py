"""Arguments that the functional API refuses: named, and nothing is written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import numadam as na
from tests.bad_arrays import BAD, cases, matches
from tests.bits import assert_same_bits


def four(seed):
    return np.random.default_rng(seed).standard_normal(4) ** 2


ARGUMENTS = ("p", "g", "m", "v", "vmax", "out")
PLACES = {"p": "make", "g": "grads"} | dict.fromkeys(("m", "v", "vmax", "out"), "params")
ROWS = [
    (case, name)
    for case, row in BAD.items()
    for name in ARGUMENTS
    if PLACES[name] in row[3] and case != "None"
]


@pytest.mark.parametrize(("case", "name"), cases(ROWS))
def test_refused(case, name):
    """The argument is named, and nothing is written."""
    spoil, error, says, _ = BAD[case]
    good = {key: four(k) for k, key in enumerate(ARGUMENTS)}
    used = {**good, name: spoil(good[name])}
    before = {key: a.copy() for key, a in good.items()}
    if case in ("other float", "float16", "complex") and name == "p":
        name = "g"
    out = None if name == "p" else used["out"]  # with out, p is only read
    with pytest.raises(error) as caught:
        na.adam_update(used["p"], used["g"], used["m"], used["v"], 1, vmax=used["vmax"], out=out)
    matches(str(caught.value), name, says)
    for key, a in good.items():
        assert_same_bits(a, before[key])


MISSING = {
    "adam m": "na.adam_update(a, a + 1, None, a * 0, 1)",
    "adam v": "na.adam_update(a, a + 1, a * 0, None, 1)",
    "rmsprop v": "na.rmsprop_update(a, a + 1, None)",
    "sgd m": "na.sgd_update(a, a + 1, None, momentum=0.9)",
    "adam g": "na.adam_update(a, None, a * 0, a * 0, 1)",
    "adam p": "na.adam_update(None, a, a * 0, a * 0, 1)",
}


@pytest.mark.parametrize("case", MISSING)
def test_none_is_refused(case):
    """In a process of its own: None in place of an array must never reach the compiled loop."""
    code = f"import numpy as np, numadam as na\na = np.ones(4)\n{MISSING[case]}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    last = done.stderr.strip().splitlines()[-1:]
    assert done.returncode == 1, (done.returncode, done.stderr[-500:])
    assert last[0].startswith((f"TypeError: {case[-1]}: ", f"ValueError: {case[-1]}: ")), last


class Pretender:
    """Says that it is an ndarray, as proxies do, but is none: its header must not be read."""

    def __init__(self, array):
        self._array = array

    __class__ = property(lambda self: np.ndarray)

    def __getattr__(self, name):
        return getattr(self._array, name)


@pytest.mark.parametrize("name", ["p", "g", "m"])
def test_a_proxy_is_refused(name):
    arrays = {key: np.zeros(3) for key in ("p", "g", "m", "v")}
    arrays[name] = Pretender(arrays[name])
    with pytest.raises(TypeError, match=rf"^{name}: expected a NumPy.*Pretender"):
        na.adam_update(arrays["p"], arrays["g"], arrays["m"], arrays["v"], 1)


PAIRS = [(a, b) for k, a in enumerate(ARGUMENTS) for b in ARGUMENTS[k + 1 :]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_one_array_twice_is_refused(first, second):
    arrays = {key: four(k) for k, key in enumerate(ARGUMENTS)}
    for view in (slice(None), slice(None, None, -1)):
        used = {**arrays, second: arrays[first][view]}
        before = {key: a.copy() for key, a in arrays.items()}
        out = used["out"] if "out" in (first, second) else None
        with pytest.raises(ValueError, match=r"shares memory.*copy") as caught:
            na.adam_update(
                used["p"], used["g"], used["m"], used["v"], 1, vmax=used["vmax"], out=out
            )
        words = str(caught.value).replace(".", " ").replace(":", " ").split()
        assert {first, second} <= set(words)
        for key, a in arrays.items():
            assert_same_bits(a, before[key])


@pytest.mark.parametrize("t", [0, -1, -(2**40), 2**63, 2**70, 1.0, 1.5, "1", None, np.nan, [1]])
def test_other_t_is_refused(t):
    p, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    with pytest.raises((ValueError, TypeError), match=r"^t: expected "):
        na.adam_update(p, np.ones(3), m, v, t)
    assert p.tolist() == [1] * 3
    assert not m.any()


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [
        ("adam", "lr", -1.0),
        ("adam", "beta1", 1.0),
        ("adam", "beta2", 1.0),
        ("adam", "eps", np.nan),
        ("adam", "eps_form", "x"),
        ("rmsprop", "beta2", 1.0),
        ("rmsprop", "eps", -1.0),
        ("rmsprop", "lr", np.inf),
        ("sgd", "lr", np.nan),
        ("sgd", "momentum", 1.0),
    ],
)
def test_hyperparameters_are_refused_by_name(function, name, value):
    p, a, b = np.ones(3), np.zeros(3), np.zeros(3)
    update, state, options = {
        "adam": (na.adam_update, (a, b, 1), {}),
        "rmsprop": (na.rmsprop_update, (a,), {}),
        "sgd": (na.sgd_update, (a,), {"momentum": 0.5}),
    }[function]
    with pytest.raises(ValueError, match=f"^{name}: "):
        update(p, np.ones(3), *state, **(options | {name: value}))
    assert p.tolist() == [1] * 3


def test_momentum_buffer_where_momentum_is_and_only_there():
    p, g = np.ones(3), np.ones(3)
    with pytest.raises(ValueError, match=r"^m: "):
        na.sgd_update(p, g, momentum=0.9)
    with pytest.raises(ValueError, match=r"^m: "):
        na.sgd_update(p, g, np.zeros(3))
    with pytest.raises(ValueError, match=r"^nesterov: "):
        na.sgd_update(p, g, nesterov=True)
    assert p.tolist() == [1] * 3

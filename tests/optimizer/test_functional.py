"""The functional API: one step on arrays that the caller owns, and what it refuses."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numadam as na
from numadam._cpu import backend as cpu_update
from tests.bad_arrays import BAD, cases, matches
from tests.bits import DTYPES, KERNELS, OPTIONS, RULES, assert_same_bits, gradients, starts
from tests.processes import python
from tests.trees import LAYOUTS, lay, relaxed, shapes


def call(name, p, g, state, t, lr=0.01, out=None):
    """One step on these arrays by the function that is the rule of this name."""
    rule, options = OPTIONS[name]
    options = {key: value for key, value in options.items() if key != "amsgrad"}
    if rule == "adam":
        options["t"] = t
    getattr(na, f"{rule}_update")(p, g, **state, lr=lr, out=out, **options)


@pytest.mark.parametrize("name", KERNELS)
def test_the_same_bits_as_the_class(name):
    """In float32; in float64 every rule is compared in tests/rules/test_all_rules.py."""
    grads = gradients("float32")[:10]
    p = starts("float32", grads.shape[1])
    q = p.copy()
    opt = RULES[name][0](q, 0.01)
    state = {key: np.zeros_like(p) for key in opt.state if key != "t"}
    for t, g in enumerate(grads, 1):
        call(name, p, g, state, t)
        opt.step(g)
        assert_same_bits(p, q)
        for key in state:
            assert_same_bits(state[key], opt.state[key])


#: a direction is compiled by itself: each formula in one dtype, one in both
WITH_OUT = pytest.mark.parametrize(
    ("name", "dtype"), [("adam paper", "float64"), *((name, "float32") for name in KERNELS)]
)


@WITH_OUT
def test_out(name, dtype):
    g = gradients(dtype)[0]
    p = starts(dtype, g.size)
    q, before, out = p.copy(), p.copy(), np.full_like(p, 9)
    keys = [key for key in RULES[name][0](p.copy(), 0.1).state if key != "t"]
    state, other = ({key: np.full_like(p, 0.5) for key in keys} for _ in range(2))
    call(name, p, g, state, 3, out=out)
    assert_same_bits(p, before)
    call(name, q, g, other, 3)
    assert_same_bits(p + out, q)
    for key in keys:
        assert_same_bits(state[key], other[key])
    call(name, p, g, state, 4)  # without out it is applied again
    call(name, q, g, other, 4)
    assert not np.array_equal(p, before)


@relaxed
@given(
    shapes,
    st.lists(st.sampled_from(list(LAYOUTS)), min_size=6, max_size=6),
    st.sampled_from(DTYPES),
    st.sampled_from(["adam paper", "adam hat amsgrad", "rmsprop", "sgd", "sgd nesterov"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_layout_of_every_array(shape, layouts, dtype, name, with_out, seed):
    """Each of p, g, m, v, vmax, out in a layout of its own: the bits of contiguous arrays."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.random(shape), dtype) for _ in range(6)]
    p, g, m, v, vmax, out = (lay(a, layout) for a, layout in zip(arrays, layouts, strict=True))
    p2, g2, m2, v2, vmax2, out2 = (a.copy() for a in arrays)
    keys = [key for key in RULES[name][0](p2.copy(), 0.1).state if key != "t"]
    state = {key: a for key, a in (("m", m), ("v", v), ("vmax", vmax)) if key in keys}
    state2 = {key: a for key, a in (("m", m2), ("v", v2), ("vmax", vmax2)) if key in keys}
    for t in (1, 2):
        call(name, p, g, state, t, out=out if with_out else None)
        call(name, p2, g2, state2, t, out=out2 if with_out else None)
    for a, b in zip((p, g, m, v, vmax, out), (p2, g2, m2, v2, vmax2, out2), strict=True):
        assert_same_bits(np.asarray(a), np.asarray(b))


def test_with_out_the_parameters_are_only_read():
    """They may be read-only, broadcast, strided, or the gradient itself."""
    base = np.random.default_rng(0).standard_normal(4) ** 2
    locked = base.copy()
    locked.flags.writeable = False
    strided = np.repeat(base, 2)[::2]
    for p in (locked, strided, np.broadcast_to(base[:1], (4,))):
        out, m, v = np.zeros(4), np.zeros(4), np.zeros(4)
        na.adam_update(p, p, m, v, 1, out=out)
        expected, q, m, v = np.zeros(4), p.copy(), np.zeros(4), np.zeros(4)
        na.adam_update(q, p.copy(), m, v, 1, out=expected)
        assert_same_bits(out, expected)


def test_many_shapes_from_many_threads():
    """The tables that calls take turns with are few, also where calls are refused."""

    def work(n):
        p = np.zeros(n)
        na.sgd_update(p, np.ones(n), lr=1.0)
        with pytest.raises(TypeError):
            na.sgd_update(np.zeros(n, int), np.ones(n))
        return (p == -1).all()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(1, 700)))
    assert len(cpu_update._free) <= cpu_update._KEYS + 4


@pytest.mark.parametrize("t", [1, np.int32(1), np.array(1), True])
def test_t_may_be_any_integer(t):
    p, q = np.ones(3), np.ones(3)
    na.adam_update(p, np.ones(3), np.zeros(3), np.zeros(3), t)
    na.Adam(q).step(np.ones(3))
    assert_same_bits(p, q)


def test_options_are_keyword_only():
    p, g, m, v = np.ones(3), np.ones(3), np.zeros(3), np.zeros(3)
    with pytest.raises(TypeError):
        na.adam_update(p, g, m, v, 1, 0.1)
    with pytest.raises(TypeError):
        na.rmsprop_update(p, g, v, 0.1)
    with pytest.raises(TypeError):
        na.sgd_update(p, g, m, 1, 0.1)


def test_nothing_is_kept():
    """Arrays of many shapes come and go; none is held, and none is mixed up with another."""
    alive = []
    for n in range(300):
        p, g, m, v = np.ones(n), np.full(n, 2.0), np.zeros(n), np.zeros(n)
        na.adam_update(p, g, m, v, 1, lr=0.5)
        assert np.allclose(p, 0.5)
        na.adam_update(p, g, m, v, 2, lr=0.5)
        alive += [weakref.ref(x) for x in (p, g, m, v)]
    del p, g, m, v
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_subclass_memmap_and_broadcast(tmp_path):
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(3, 4))
    p[...] = 1
    g = np.broadcast_to(np.float32(1), (3, 4))
    m, v = np.zeros((3, 4), np.float32, order="F"), np.zeros((4, 3), np.float32).T
    na.adam_update(p, g, m, v, 1, lr=0.25)
    assert np.allclose(p, 0.75)
    assert m[2, 3] == np.float32(1 - 0.9)


# --- refused --------------------------------------------------------------------------------------


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
REFUSALS = f"""
a = np.ones(4)
for code in {[*MISSING.values()]}:
    try:
        eval(code)
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)
"""


def test_none_is_refused():
    """In a process of its own: None in place of an array must never reach the compiled loop."""
    for case, line in zip(MISSING, python(REFUSALS).splitlines(), strict=True):
        assert line.startswith((f"TypeError {case[-1]}: ", f"ValueError {case[-1]}: ")), line


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


def test_momentum_buffer_where_momentum_is_and_only_there():
    p, g = np.ones(3), np.ones(3)
    with pytest.raises(ValueError, match=r"^m: "):
        na.sgd_update(p, g, momentum=0.9)
    with pytest.raises(ValueError, match=r"^m: "):
        na.sgd_update(p, g, np.zeros(3))
    with pytest.raises(ValueError, match=r"^nesterov: "):
        na.sgd_update(p, g, nesterov=True)
    assert p.tolist() == [1] * 3

"""The functional API: one step on arrays that the caller owns, and what it refuses.

Later calls take a shorter way than the first: nothing else.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numadam as na
from numadam._optimizer import functional
from numadam.rules import CLASSES
from tests import extras
from tests.bits import KERNELS, OPTIONS, OTHERS, assert_same_bits, gradients, starts
from tests.processes import python
from tests.trees import BAD, LAYOUTS, cases, lay, matches, relaxed, shapes

#: rule and options: each compiled formula, a rule with products, and options of the first call
CASES = {name: OPTIONS[name] for name in KERNELS + OTHERS} | {
    "nadam": ("nadam", {}),
    "adam tf1": ("adam", {"like": "tf1"}),
    "adam bounds": ("adam", {"bounds": (-0.5, 0.5)}),
    "adam l2": ("adam", {"weight_decay": 0.3}),
    "adam clip": ("adam", {"clip_norm": 1.0}),
}


def made(case, p):
    """An optimiser over p, and state arrays of its rule by name, zeros."""
    rule, options = CASES[case]
    opt = getattr(na, CLASSES[rule])(p, lr=0.01, **options)
    state = {name: np.zeros_like(p) for name in opt.state if name in ("m", "v", "vmax")}
    return opt, state


def call(case, p, g, state, t, **more):
    """One step on these arrays by the update function of a case."""
    rule, options = CASES[case]
    update = getattr(na, f"{rule}_update")
    number = {"t": t} if "t" in inspect.signature(update).parameters else {}
    options = {key: value for key, value in options.items() if key != "amsgrad"}
    update(p, g, **state, **number, lr=0.01, **{**options, **more})


ARGUMENTS = ("p", "g", "m", "v", "vmax", "out")
#: a direction is compiled by itself
WITH_OUT = [(case, "float64") for case in KERNELS]
WITH_OUT += [extras.sweep(case, "float64") for case in ("adam paper", "nadam", "adam tf1")]
WITH_OUT += [extras.sweep(case, "float32") for case in KERNELS + OTHERS]


@pytest.mark.parametrize(("case", "dtype"), WITH_OUT)
def test_out(case, dtype):
    """With `out` the direction is that for any parameters, also for none."""
    g = gradients(dtype)[0]
    p = starts(dtype, g.size)
    q, before, out, free = p.copy(), p.copy(), np.full_like(p, 9), np.full_like(p, 9)
    states = [{key: np.full_like(p, 0.5) for key in made(case, p)[1]} for _ in range(3)]
    call(case, p, g, states[0], 3, out=out)
    assert_same_bits(p, before)
    call(case, None, g, states[1], 3, out=free)
    assert_same_bits(free, out)
    call(case, q, g, states[2], 3)
    assert_same_bits(p + out, q)
    for key, array in states[0].items():
        for other in states[1:]:
            assert_same_bits(array, other[key])
    call(case, p, g, states[0], 4)  # without out it is applied again
    call(case, q, g, states[2], 4)
    assert not np.array_equal(p, before)


@relaxed
@given(
    shapes,
    st.lists(st.sampled_from(list(LAYOUTS)), min_size=6, max_size=6),
    st.sampled_from(["float64"]),
    st.sampled_from(["adam paper amsgrad", "rmsprop"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_layout_of_every_array(shape, layouts, dtype, case, with_out, seed):
    """Each of p, g, m, v, vmax, out in a layout of its own: the bits of contiguous arrays."""
    rng = np.random.default_rng(seed)
    plain = {key: np.asarray(rng.random(shape), dtype) for key in ARGUMENTS}
    pairs = zip(plain.items(), layouts, strict=True)
    laid = {key: lay(a.copy(), layout) for (key, a), layout in pairs}
    keys = made(case, plain["p"].copy())[1]
    for t in (1, 2):
        for arrays in (plain, laid):
            state = {key: arrays[key] for key in keys}
            out = arrays["out"] if with_out else None
            call(case, arrays["p"], arrays["g"], state, t, out=out)
    for key, a in plain.items():
        assert_same_bits(np.asarray(laid[key]), a)


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


@pytest.mark.parametrize("t", [1, np.int32(1), np.array(1), True])
def test_t_may_be_any_integer(t):
    p, q = np.ones(3), np.ones(3)
    na.adam_update(p, np.ones(3), np.zeros(3), np.zeros(3), t)
    na.Adam(q).step(np.ones(3))
    assert_same_bits(p, q)


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


# --- refused --------------------------------------------------------------------------------------


def four(seed):
    return np.random.default_rng(seed).standard_normal(4) ** 2


PLACES = {"p": "make", "g": "grads"} | dict.fromkeys(("m", "v", "vmax", "out"), "params")
ROWS = [
    (case, name)
    for case, row in BAD.items()
    for name in ARGUMENTS
    if PLACES[name] in row[3] and case != "None" and (case, name) != ("complex", "p")
]


@pytest.mark.parametrize(("case", "name"), cases(ROWS))
def test_refused(case, name):
    """The argument is named, and nothing is written."""
    spoil, error, says, _ = BAD[case]
    good = {key: four(k) for k, key in enumerate(ARGUMENTS)}
    used = {**good, name: spoil(good[name])}
    before = {key: a.copy() for key, a in good.items()}
    if (case, name) == ("other float", "p"):
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


# --- later calls ---------------------------------------------------------------------------------


@pytest.mark.rule
@pytest.mark.parametrize("case", CASES)
def test_calls_of_two_problems_in_turn(case):
    """Two problems of one shape, one of them steps ahead: the bits of their optimisers."""
    rng = np.random.default_rng(0)
    problems = []
    for _ in range(2):
        p = rng.uniform(-0.4, 0.4, 6)  # inside of the bounds
        q = p.copy()
        opt, state = made(case, q)
        problems.append((p, q, opt, state))
    turns = itertools.chain([0], [0, 1] * 4, [0, 0, 1, 1, 1, 0])
    for k in turns:
        p, q, opt, state = problems[k]
        g = rng.standard_normal(6)
        call(case, p, g, state, opt.t + 1)
        opt.step(g)
        assert_same_bits(p, q)
        for name, x in state.items():
            assert_same_bits(x, opt.state[name])


@pytest.mark.parametrize(
    ("says", "options"),
    [
        (r"^p: weight_decay=0\.1 needs the parameters", {"weight_decay": 0.1}),
        extras.sweep(r"^p: bounds=\(0, 1\) needs the parameters", {"bounds": (0, 1)}),
    ],
)
def test_options_that_need_the_parameters(says, options):
    """Also after a call with the same options and parameters."""
    g, m, v, out = np.ones(6), np.zeros(6), np.zeros(6), np.zeros(6)
    na.adam_update(np.full(6, 0.5), g, m, v, 1, out=out, **options)
    before = m.copy(), v.copy(), out.copy()
    for _ in range(2):
        with pytest.raises(ValueError, match=says):
            na.adam_update(None, g, m, v, 2, out=out, **options)
    for now, then in zip((m, v, out), before, strict=True):
        assert_same_bits(now, then)


def usual():
    return np.ones(6), np.full(6, 2.0), np.zeros(6), np.zeros(6)


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ({"maximize": True}, {"maximize": 1}, "^maximize: expected True or False"),
        ({"nesterov": False}, {"nesterov": 0.0}, "^nesterov: "),
        ({"weight_decay": 1.0}, {"weight_decay": True}, "^weight_decay: expected a number"),
        ({"like": "torch"}, {"like": "Torch"}, "^like: expected one of"),
        ({"beta1": 0.5}, {"beta1": lambda t: 0.5}, "^beta1: "),
        ({"bounds": (0.0, 2.0)}, {"bounds": (False, "2")}, "^bounds"),
        ({"lr": 0.1}, {"lr": np.nan}, "^lr: "),
        ({"lr": 0.1}, {"lr": -0.1}, "^lr: "),
        ({}, {"nonfinite": "skip"}, "needs arrays or counters"),
        ({}, {"learning_rate": 0.1}, "there is no option"),
    ],
)
def test_what_is_refused_after_an_equal_call(good, bad, says):
    """An option that equals the one of a call before is checked as if it were the first."""
    p, g, m, v = usual()
    for t in (1, 2):
        na.adam_update(p, g, m, v, t, **good)
    before = p.copy(), m.copy(), v.copy()
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=says) as caught:
            na.adam_update(p, g, m, v, 3, **bad)
        assert not isinstance(caught.value.__context__, KeyError)  # no traceback of ours before
    for now, then in zip((p, m, v), before, strict=True):
        assert_same_bits(now, then)


def test_bounds_of_either_zero_after_equal_bounds():
    _, g, m, v = usual()
    for low in (0.0, -0.0, 0.0):
        p = np.full(6, -1.0)
        na.adam_update(p, g, m, v, 1, bounds=(low, 2.0))
        assert_same_bits(p, np.full(6, low))


class Changing:
    """A number that changes by itself, as tensors of other libraries may; it can be hashed."""

    value = 0.25

    def __float__(self):
        return self.value


@pytest.mark.parametrize("kind", ["array", "number", "list of bounds", "array of bounds"])
def test_an_option_that_changes_by_itself(kind):
    """The object is the same at every call, its value another."""
    p, g, m, v = usual()
    q, _, a, b = usual()
    array, number, bounds = np.array(0.0), Changing(), [0.0, 5.0]
    given = {"array": array, "number": number, "list of bounds": bounds}
    option = given.get(kind, (array, 5.0))
    for t, value in enumerate((0.25, 0.5, 0.75), 1):
        array[...] = number.value = bounds[0] = value
        now = {"bounds": (value, 5.0)} if "bounds" in kind else {"beta1": value}
        na.adam_update(p, g, m, v, t, lr=0.5, **dict.fromkeys(now, option))
        na.adam_update(q, g, a, b, t, lr=0.5, **now)
        assert_same_bits(p, q)


def remembered():
    """What `adam_update` remembers: an entry for each kind of call."""
    return na.adam_update.__globals__["step"].__self__._known


def test_options_and_rates_that_change_at_every_call(monkeypatch):
    """Numbers of a schedule: right, and what is remembered stays bounded."""
    monkeypatch.setattr(functional, "_REMEMBERED", 16)
    remembered().clear()
    p, _, m, v = usual()
    q = p.copy()
    falling = {"lr": lambda t: 0.1 / (t + 1), "beta1": lambda t: 0.9 - 0.0005 * t}
    opt = na.Adam(q, **falling, bias_correction=False)
    sizes = set()
    for t in range(1, 100):
        g = np.sin(np.arange(6) + t)
        opt.step(g)
        na.adam_update(
            p, g, m, v, t, lr=0.1 / t, beta1=0.9 - 0.0005 * (t - 1), bias_correction=False
        )
        assert_same_bits(p, q)
        sizes.add(len(remembered()))
    assert max(sizes) <= 16


def test_the_usual_lr_is_that_of_the_preset():
    """Also where an earlier call gave one."""
    p, g, _, v = usual()
    na.rmsprop_update(p, g, v, lr=0.5, like="keras")
    p[:], v[:] = 1.0, 0.0
    na.rmsprop_update(p, g, v, like="keras")
    q = np.ones(6)
    na.RMSprop(q, like="keras").step(g)
    assert_same_bits(p, q)


def test_arrays_of_another_kind_after_a_call():
    """The same shape in another dtype, order or class, and read-only: as at a first call."""
    for dtype, order in (("f8", "C"), ("f4", "C"), ("f8", "F"), ("f8", "C")):
        arrays = [np.asarray(np.ones((3, 4)), dtype, order) * k for k in (1, 2, 0, 0)]
        na.adam_update(*arrays, 1, lr=0.5)
        assert np.allclose(arrays[0], 0.5)
    p, g, m, v = np.ones((3, 4)), np.ones((3, 4)), np.zeros((3, 4)), np.zeros((3, 4))
    p.flags.writeable = False
    with pytest.raises(ValueError, match=r"^p: is read-only"):
        na.adam_update(p, g, m, v, 1, lr=0.5)
    p = np.ones((3, 4))
    with pytest.raises(TypeError, match=r"^v: "):
        na.adam_update(p, g, m, None, 1, lr=0.5)
    with pytest.raises(ValueError, match="shares memory"):
        na.adam_update(p, g, m, m, 1, lr=0.5)
    assert (p == 1).all()
    assert not m.any()


def test_threads_at_once():
    """Each thread has arguments of its own: no call sees the options or t of another."""
    n, wrong, begin = 6_000, [], threading.Barrier(4)  # from 5,000 on a step lets others run

    def work(k):
        beta1, rng = (0.5, 0.6, 0.7, 0.8)[k], np.random.default_rng(k)
        p, m, v = np.zeros(n), np.zeros(n), np.zeros(n)
        q = p.copy()
        opt = na.Adam(q, lr=0.01 * (k + 1), beta1=beta1)
        begin.wait()
        for t in range(1, 200):
            g = rng.standard_normal(n)
            na.adam_update(p, g, m, v, t, lr=0.01 * (k + 1), beta1=beta1)
            opt.step(g)
        if not np.array_equal(p, q):
            wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_by_name():
    p, g, m, v = usual()
    q, _, a, b = usual()
    na.adam_update(t=1, v=v, m=m, g=g, p=p)
    na.adam_update(q, g, a, b, 1)
    assert_same_bits(p, q)

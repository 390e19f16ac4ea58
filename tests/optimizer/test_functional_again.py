"""Later calls of an update function, which take a shorter way than the first: nothing else."""

from __future__ import annotations

import gc
import inspect
import itertools
import threading
import weakref

import numpy as np
import pytest

import numadam as na
from numadam._optimizer import functional
from numadam.rules import CLASSES
from tests.bits import assert_same_bits

#: rule and options: every rule as it is, and forms of Adam
CASES = {file: (file, {}) for file in CLASSES} | {
    "adam torch": ("adam", {"like": "torch"}),
    "adam tf1": ("adam", {"like": "tf1"}),
    "adam bounds": ("adam", {"bounds": (-0.5, 0.5), "weight_decay": 0.1, "decoupled": True}),
}


def made(case, p):
    """An optimiser over p, and state arrays of its rule by name, zeros."""
    file, options = CASES[case]
    opt = getattr(na, CLASSES[file])(p, lr=0.01, **options)
    state = {name: x.copy() for name, x in opt.state.items() if name in opt.rule.state}
    return opt, state


def call(case, p, g, state, t, **more):
    """One step by the update function of a case."""
    file, options = CASES[case]
    update = getattr(na, f"{file}_update")
    number = {"t": t} if "t" in inspect.signature(update).parameters else {}
    update(p, g, **state, **number, lr=0.01, **{**options, **more})


@pytest.mark.rule
@pytest.mark.parametrize("case", CASES)
def test_calls_of_two_problems_in_turn(case):
    """Two problems of one shape, one of them two steps ahead: the bits of their optimisers."""
    rng = np.random.default_rng(0)
    problems = []
    for _ in range(2):
        p = rng.uniform(-0.4, 0.4, 6)  # inside of the bounds
        q = p.copy()
        opt, state = made(case, q)
        problems.append((p, q, opt, state))
    turns = itertools.chain([0, 0], [0, 1] * 5, [1, 1, 0])
    for k in turns:
        p, q, opt, state = problems[k]
        g = rng.standard_normal(6)
        call(case, p, g, state, opt.t + 1)
        opt.step(g)
        assert_same_bits(p, q)
        for name, x in state.items():
            assert_same_bits(x, opt.state[name])


@pytest.mark.rule
@pytest.mark.parametrize("case", CASES)
def test_without_the_parameters(case):
    """With `out` and p=None the direction is that for any parameters."""
    rng = np.random.default_rng(1)
    used = {"weight_decay": 0.0, "bounds": None}  # these need the parameters
    p = rng.standard_normal(6)
    _, state = made(case, p.copy())
    other = {name: x.copy() for name, x in state.items()}
    for t in (1, 2, 3):
        g, out, expected = rng.standard_normal(6), np.zeros(6), np.zeros(6)
        call(case, None, g, state, t, out=out, **used)
        call(case, p, g, other, t, out=expected, **used)
        assert_same_bits(out, expected)
        for name in state:
            assert_same_bits(state[name], other[name])


@pytest.mark.parametrize(
    ("says", "options"),
    [
        (r"^p: weight_decay=0\.1 needs the parameters", {"weight_decay": 0.1}),
        (r"^p: bounds=\(0, 1\) needs the parameters", {"bounds": (0, 1)}),
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


def test_no_parameters_without_out():
    with pytest.raises(TypeError, match=r"^p: expected"):
        na.adam_update(None, np.ones(6), np.zeros(6), np.zeros(6), 1)


def test_messages_without_parameters_name_the_gradient():
    g, m, v = np.ones(6), np.zeros(6), np.zeros(6)
    with pytest.raises(ValueError, match=r"^m: expected shape \(6,\) like g, got"):
        na.adam_update(None, g, np.zeros(5), v, 1, out=np.zeros(6))
    with pytest.raises(TypeError, match=r"^g: expected a NumPy"):
        na.adam_update(None, [1.0], m, v, 1, out=np.zeros(6))


def usual():
    return np.ones(6), np.full(6, 2.0), np.zeros(6), np.zeros(6)


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ({"maximize": True}, {"maximize": 1}, "^maximize: expected True or False"),
        ({"nesterov": False}, {"nesterov": 0.0}, "^nesterov: "),
        ({"weight_decay": 1.0}, {"weight_decay": True}, "^weight_decay: expected a number"),
        ({"like": "torch"}, {"like": "Torch"}, "^like: expected one of"),
        ({"beta1": 0.5}, {"beta1": np.nan}, "^beta1: "),
        ({"beta1": 0.5}, {"beta1": lambda t: 0.5}, "^beta1: "),
        ({"bounds": (0.0, 2.0)}, {"bounds": (False, "2")}, "^bounds"),
        ({"lr": 0.1}, {"lr": np.nan}, "^lr: "),
        ({"lr": 0.1}, {"lr": -0.1}, "^lr: "),
        ({"lr": 0.1}, {"lr": True}, "^lr: expected a number"),
        ({"lr": 0.1}, {"lr": None}, "^lr: expected a number"),
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


@pytest.mark.parametrize(
    "options",
    [
        {"beta1": np.array(0.5)},
        {"bounds": [0.0, 5.0]},
        {"bounds": (np.array(0.0), 5.0)},
    ],
)
def test_an_option_that_changes_by_itself(options):
    """The array or list is the same object, its value another."""
    p, g, m, v = usual()
    q, _, a, b = usual()
    ((name, value),) = options.items()
    inner = value if not isinstance(value, tuple) else value[0]
    for t, number in enumerate((0.25, 0.5, 0.75), 1):
        if isinstance(inner, list):
            inner[0] = number
        else:
            inner[...] = number
        na.adam_update(p, g, m, v, t, lr=0.5, **options)
        now = number if name == "beta1" else (number, 5.0)
        na.adam_update(q, g, a, b, t, lr=0.5, **{name: now})
        assert_same_bits(p, q)


class Changing:
    """A number that changes by itself, as tensors of other libraries may; it can be hashed."""

    value = 0.25

    def __float__(self):
        return self.value


def test_a_number_of_another_kind_is_read_at_every_call():
    p, g, m, v = usual()
    q, _, a, b = usual()
    beta1 = Changing()
    for t, beta1.value in enumerate((0.25, 0.5, 0.75), 1):
        na.adam_update(p, g, m, v, t, lr=0.5, beta1=beta1)
        na.adam_update(q, g, a, b, t, lr=0.5, beta1=beta1.value)
        assert_same_bits(p, q)


def test_later_calls_take_the_short_way(monkeypatch):
    """With p=None, too, for strided arrays, and for each of several shapes in turn."""
    calls = []
    for n in (3, 4):
        _, g, m, v = (np.ones(n) for _ in range(4))
        wide = np.ones(2 * n)[::2]
        calls.append(lambda t, g=g, m=m, v=v: na.adam_update(None, g, m, v, t, out=np.ones(g.size)))
        calls.append(lambda t, g=g, m=m, v=v, p=wide: na.adam_update(p, g, m, v, t, like="torch"))
        calls.append(lambda t, g=g, m=m, v=v: na.nadam_update(np.ones(g.size), g, m, v, t))
        calls.append(lambda t, g=g, m=m: na.sgd_update(np.ones(g.size), g, m, momentum=0.5))
    for t in (1, 2):
        for one in calls:
            one(t)
    monkeypatch.setattr(functional.UpdateFunction, "_step", None)  # the long way
    for t in (3, 4, 4, 5):
        for one in calls:
            one(t)


def remembered():
    """What `adam_update` remembers: an entry for each kind of call."""
    return na.adam_update.__globals__["step"].__self__._known


def test_options_and_rates_that_change_at_every_call():
    """Numbers of a schedule: right, and what is remembered stays bounded."""
    p, _, m, v = usual()
    q = p.copy()
    falling = {"lr": lambda t: 0.1 / (t + 1), "beta1": lambda t: 0.9 - 0.0005 * t}
    opt = na.Adam(q, **falling, bias_correction=False)
    sizes = set()
    for t in range(1, 1000):
        g = np.sin(np.arange(6) + t)
        opt.step(g)
        na.adam_update(
            p, g, m, v, t, lr=0.1 / t, beta1=0.9 - 0.0005 * (t - 1), bias_correction=False
        )
        assert_same_bits(p, q)
        sizes.add(len(remembered()))
    assert max(sizes) <= functional._REMEMBERED


def test_rates_make_no_entries():
    p, g, m, v = usual()
    na.adam_update(p, g, m, v, 1, lr=0.1)
    before = len(remembered())
    for t in range(2, 50):
        na.adam_update(p, g, m, v, t, lr=1.0 / t)
        na.adam_update(p, g, m, v, np.int64(t), lr=np.float32(1.0 / t))
    assert len(remembered()) == before


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
    for dtype, order in (("f8", "C"), ("f4", "C"), ("f8", "F"), ("c8", "C"), ("f8", "C")):
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


def test_nothing_is_kept_of_later_calls():
    p, g, m, v = usual()
    refs = [weakref.ref(x) for x in (p, g, m, v)]
    for t in (1, 2, 3):
        na.adam_update(p, g, m, v, t)
    del p, g, m, v
    gc.collect()
    assert [ref() for ref in refs] == [None] * 4


def test_python_says_what_does_not_fit_the_signature():
    arrays = usual()
    for more, by_name in (((), {}), ((1, 2), {}), ((1,), {"p": arrays[0]})):
        with pytest.raises(TypeError, match=r"^adam_update\(\) "):
            na.adam_update(*arrays, *more, **by_name)


def test_by_name():
    p, g, m, v = usual()
    q, _, a, b = usual()
    na.adam_update(t=1, v=v, m=m, g=g, p=p)
    na.adam_update(q, g, a, b, 1)
    assert_same_bits(p, q)

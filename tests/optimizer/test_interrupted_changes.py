"""All of it or nothing: changes of an optimiser that Ctrl-C meets, and what snapshots restore."""

from __future__ import annotations

import copy
import ctypes
import pickle
import tracemalloc

import numpy as np
import pytest

import numadam as na
from numadam._core import options as op
from numadam._jit.process import at_once
from numadam._settings import settings
from tests.bits import assert_same_bits
from tests.processes import strike_everywhere
from tests.runs import SINK, digest, meanwhile, tree_of
from tests.trees import tree_leaves, tree_map


def settled(t):
    return 0.25


@pytest.mark.parametrize(
    ("name", "value"), [("clip_value", 2.0), ("beta1", 0.5), ("weight_decay", settled)]
)
def test_a_hyperparameter_is_that_of_the_steps(name, value):
    opt = na.Adam(np.zeros(3), clip_value=1.0, weight_decay=0.125, groups={"": {"eps": 1e-3}})
    settings, before = opt._settings, getattr(opt, name)
    _, column = op.columns(na.Adam.rule)[name]
    old = settings.control[:, column].copy()
    new = 0.25 if callable(value) else value
    seen = set()

    def make():
        setattr(opt, name, before)
        return opt

    def check(opt):
        settings.refresh(0)
        changed = getattr(opt, name) == value
        np.testing.assert_array_equal(settings.control[:, column], new if changed else old)
        assert bool(settings.schedules) == (changed and callable(value))
        assert (settings.constant_rate is None) == (changed and callable(value))
        seen.add(changed)

    def work(opt):
        setattr(opt, name, value)

    assert strike_everywhere(make, work, check, inside="/_settings/settings.py") > 50
    assert seen == {False, True}


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("groups", [None, {"": {"eps": 1e-3}}])
def test_ctrl_c_inside_a_change_reaches_no_c_function(groups, monkeypatch):
    """NumPy runs signal handlers in the middle of some of its functions."""
    opt = na.Adam(np.zeros(3), clip_value=5.0, groups=groups)

    def interrupted(calls):
        at_once([ctypes.pythonapi.PyErr_SetInterrupt, *calls])

    monkeypatch.setattr(settings, "at_once", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opt.clip_value = 1e-3
    assert opt.clip_value == 1e-3
    assert (opt._settings.control[:, op.COLUMN.clip_value] == 1e-3).all()


def test_an_option_that_takes_another_loop_is_set_or_not():
    start, seen = np.array([2.0, -1.0, 0.25]), set()

    def make():
        return na.Adam(start.copy(), lr=0.5)

    def check(opt):
        changed = opt.bounds is not None
        assert opt._settings is opt._backend.settings
        assert_same_bits(opt.params, np.clip(start, 0.0, 0.5) if changed else start)
        opt.step(np.ones(3))
        assert (opt.params.min() >= 0.0) == changed
        seen.add(changed)

    def work(opt):
        opt.bounds = (0.0, 0.5)

    assert strike_everywhere(make, work, check, inside="/_optimizer/base.py") > 50
    assert seen == {False, True}


def test_a_learning_rate_is_that_of_the_steps():
    opt, seen = na.SGD(np.zeros(3), lr=1.0), set()

    def make():
        opt.lr = 1.0
        return opt

    def check(opt):
        changed = opt.lr is settled
        assert opt._settings.rate(0) == (0.25 if changed else 1.0)
        assert opt._settings.constant_rate == (None if changed else 1.0)
        seen.add(changed)

    def work(opt):
        opt.lr = settled

    assert strike_everywhere(make, work, check, inside="/_settings/settings.py") > 20
    assert seen == {False, True}


def test_gradient_buffers_take_all_arrays_or_none():
    opt, seen = na.SGD([np.zeros(3), np.zeros((2, 2)), np.zeros(())]), set()
    new = [np.ones(3), np.ones((2, 2)), np.ones(())]

    def make():
        opt.grads = [np.zeros_like(one) for one in new]
        return opt

    def check(opt):
        values = {number for leaf in opt.grads for number in leaf.ravel().tolist()}
        assert len(values) == 1
        seen.update(values)

    def work(opt):
        opt.grads = new

    assert strike_everywhere(make, work, check, inside="/_optimizer/base.py") > 20
    assert seen == {0.0, 1.0}


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (np.full(4, -1.0), np.full(4, 1.0))])
def test_a_constructor_moves_all_arrays_into_the_box_or_none(bounds):
    outside = [np.full(4, 3.0), np.array([3.0, np.nan, 0.5, -3.0]), np.zeros(4), np.full(4, -7.0)]
    moved = [np.clip(one, -1.0, 1.0) for one in outside]
    bounds = bounds if isinstance(bounds[0], float) else [bounds] * 4
    seen = set()

    def check(params):
        first = params[0][0]
        for one, whole in zip(params, outside if first == 3.0 else moved, strict=True):
            assert_same_bits(one, whole)
        seen.add(float(first))

    strike_everywhere(
        lambda: [one.copy() for one in outside],
        lambda params: na.Adam(params, bounds=bounds),
        check,
        inside="/_cpu/state.py",
    )
    assert seen == {1.0, 3.0}


def content(opt):
    backend = opt._backend
    arrays = [*opt.params, *(leaf for leaves in backend.state.values() for leaf in leaves)]
    return b"".join(one.tobytes() for one in [*arrays, *backend.counters.values()])


def falling(taken):
    return 0.9 - 0.01 * taken


ALL_STATE = {
    "bounds": (-1.0, 1.0),
    "ema": 0.9,
    "clip_norm": 1.0,
    "nonfinite": "skip",
}


@pytest.mark.parametrize("way", ["reset", "state", "t", "restore", "snapshot"])
def test_what_writes_all_arrays_happens_whole_or_not_at_all(way):
    opt = na.Adam([np.zeros(3), np.zeros((2, 2))], **ALL_STATE)
    new_state, new, snap = opt.state.copy(), opt.snapshot(), opt.snapshot()
    block = opt._backend._block
    for k in range(3):
        opt.step([np.full(3, k + 1.0), np.full((2, 2), -1.0)])
    saved, seen = block.copy(), []
    work = {
        "reset": opt.reset,
        "state": lambda: setattr(opt, "state", new_state),
        "t": lambda: setattr(opt, "t", 7),
        "restore": lambda: opt.restore(new),
        "snapshot": lambda: opt.snapshot(out=snap),
    }[way]

    def make():
        opt.restore(new)
        opt.snapshot(out=snap)
        block[...] = saved
        for p in opt.params:
            p[...] = 9.0

    def note(_):
        if way == "snapshot":
            opt.restore(snap)
        seen.append(content(opt))

    make()
    note(None)
    make()
    work()
    note(None)
    inside = "" if way in ("restore", "snapshot") else "/_cpu/state.py"
    assert strike_everywhere(make, lambda _: work(), note, inside=inside) > 20
    assert set(seen) == set(seen[:2])
    assert seen[2] == seen[0] != seen[1]


# --- snapshot and restore -------------------------------------------------------------------------


def everything(opt):
    """All bits that a snapshot promises to keep."""
    counters = {name: value.tolist() for name, value in opt._backend.counters.items()}
    return digest(opt), counters, opt.skipped, [p.tobytes() for p in tree_leaves(opt.params)]


def run(opt, seeds):
    """Steps of these gradients, and what they lead to."""
    for seed in seeds:
        opt.step(tree_of(seed))
    return everything(opt)


@pytest.mark.parametrize(
    ("rule", "options"),
    [(na.Adam, SINK), (na.Adam, {"beta1": falling}), (na.NAdam, {}), (na.SGD, {})],
)
def test_a_restored_run_goes_on_as_the_one_that_never_left(rule, options):
    opt, twin = (rule(tree_of(0), **copy.deepcopy(options)) for _ in range(2))
    run(opt, (1, 2, 3))
    here = run(twin, (1, 2, 3))
    snap = opt.snapshot()
    for seeds in ((7, 8), (9,)):  # restored twice
        run(opt, seeds)
        if options.get("nonfinite"):
            opt.step(tree_map(lambda x: np.full_like(x, np.nan), tree_of(0)))
        assert everything(opt) != here
        opt.restore(snap)
        assert everything(opt) == here
    assert run(opt, (4, 5)) == run(twin, (4, 5))
    assert opt.snapshot(out=snap) is snap
    there = everything(opt)
    opt.reset()
    opt.restore(snap)
    assert everything(opt) == there


def test_hyperparameters_and_gradient_buffers_stay():
    x = np.ones(3)
    opt = na.Adam(x, lr=1.0, clip_norm=2.0)
    opt.step(np.full(3, 3.0))
    norm, snap = opt.grad_norm, opt.snapshot()
    opt.lr, opt.clip_norm, opt.beta1 = 0.5, 1.0, 0.25
    opt.grads = np.full(3, 7.0)
    opt.step()
    opt.restore(snap)
    assert (opt.lr, opt.clip_norm, opt.beta1, opt.t) == (0.5, 1.0, 0.25, 1)
    assert opt.grad_norm == norm
    np.testing.assert_array_equal(opt.grads, 7.0)


def strided(n):
    return np.zeros((n, 2))[:, 1]


@pytest.mark.parametrize("make", [np.zeros, strided])
def test_nothing_is_allocated_after_the_first(make):
    opt = na.Adam([make(100_000), np.zeros((10, 10)).T])
    snap = opt.snapshot()
    opt.restore(snap)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            opt.snapshot(out=snap)
            opt.restore(snap)
        assert tracemalloc.get_traced_memory()[1] - before < 10_000
    finally:
        tracemalloc.stop()


def test_what_is_no_snapshot_of_this_optimiser_is_refused():
    opt, other = na.Adam(np.zeros(3)), na.Adam(np.zeros(3))
    opt.step(np.ones(3))
    before, theirs = opt.params.copy(), other.snapshot()
    for clone in (opt, copy.deepcopy(opt), copy.copy(opt)):
        for call in (clone.restore, clone.snapshot):
            with pytest.raises(ValueError, match=r"(snapshot|out): is a snapshot of another"):
                call(theirs)
            with pytest.raises(TypeError, match=r"(snapshot|out): expected a snapshot, from"):
                call({"t": 0})
    with pytest.raises(ValueError, match="snapshot: is a snapshot of another optimiser"):
        copy.copy(opt).restore(opt.snapshot())
    np.testing.assert_array_equal(opt.params, before)
    for how in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Snapshot: is for its optimiser alone"):
            how(theirs)


def test_parameters_that_no_longer_fit_change_nothing():
    x, y = np.zeros(5), np.zeros(4)
    opt = na.Adam([x, y])
    snap = opt.snapshot()
    opt.step([np.ones(5), np.ones(4)])
    saved = opt.state.copy()
    y.flags.writeable = False
    with pytest.raises(ValueError, match=r"^params\[1\]: is read-only"):
        opt.restore(snap)
    y.flags.writeable = True
    assert np.all(x != 0)
    np.testing.assert_array_equal(opt.state["m"][0], saved["m"][0])
    opt.params[1] = y.copy()
    with pytest.raises(ValueError, match=r"^params\[1\]: was replaced"):
        opt.restore(snap)


def test_steps_of_another_thread_wait():
    x = np.zeros(20_000)
    opt = na.SGD(x, lr=1.0)
    snap = opt.snapshot()
    with meanwhile(lambda: opt.step(np.full(20_000, -1.0))):
        for _ in range(200):
            opt.snapshot(out=snap)
            with opt._lock:
                opt.restore(snap)
                assert x[0] == x[-1] == opt.t
                assert np.ptp(x) == 0.0

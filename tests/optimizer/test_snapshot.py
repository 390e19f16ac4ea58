"""`opt.snapshot()` and `opt.restore(snap)`: a roll-back of everything that steps change."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

import numadam as na
from tests.interrupts import strike_everywhere
from tests.runs import SINK, digest, meanwhile, tree_of
from tests.trees import tree_leaves, tree_map


def everything(opt):
    """All bits that a snapshot promises to keep."""
    counters = {name: value.tolist() for name, value in opt._backend.counters.items()}
    return digest(opt), counters, opt.skipped, [p.tobytes() for p in tree_leaves(opt.params)]


def run(opt, seeds):
    for seed in seeds:
        opt.step(tree_of(seed))
    return everything(opt)


def falling(taken):
    return 0.9 - 0.01 * taken


@pytest.mark.parametrize(
    ("rule", "options"),
    [(na.Adam, SINK), (na.Adam, {"beta1": falling}), (na.NAdam, {}), (na.SGD, {})],
)
def test_a_restored_run_goes_on_as_the_one_that_never_left(rule, options):
    opt, twin = (rule(tree_of(0), **copy.deepcopy(options)) for _ in range(2))
    run(opt, (1, 2, 3))  # with `accumulate` one gradient is left in the sum
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


@pytest.mark.parametrize("way", ["snapshot", "restore"])
def test_an_interrupt_comes_before_or_after(way):
    opt = na.Adam([np.zeros(3), np.zeros((2, 2))], amsgrad=True)
    start = opt.snapshot()
    opt.step([np.ones(3), np.ones((2, 2))])
    moved, snap, seen = opt.snapshot(), opt.snapshot(), set()
    ones = [leaf.tobytes() for leaf in opt.params]

    def make():
        opt.restore(start)
        opt.snapshot(out=snap)  # it holds t = 0
        opt.restore(moved)

    def work(_):
        if way == "snapshot":
            opt.snapshot(out=snap)
        else:
            opt.restore(start)

    def check(_):
        if way == "snapshot":
            opt.restore(snap)
        there = [leaf.tobytes() for leaf in (*opt.params, *opt.state["v"])]
        if opt.t == 1:
            assert there[:2] == ones
        else:
            assert not any(b"".join(there))
        seen.add(opt.t)

    strike_everywhere(make, work, check)
    assert seen == {0, 1}


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

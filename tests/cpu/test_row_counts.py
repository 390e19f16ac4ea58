"""Rows with a count of their own: each takes the steps of an optimiser that has it alone."""

from __future__ import annotations

import copy
import pickle
import re
from contextlib import nullcontext

import numpy as np
import pytest

import numadam as na
from numadam._cpu.rows import classes_of
from tests import extras
from tests.bits import assert_same_bits
from tests.rules import yogi
from tests.runs import shorten_parts

Yogi = na.rule("Yogi", yogi.element, yogi.scalars, **yogi.ARGUMENTS)
COUNTS = ("step", "row")
ROW = {"sparse": "lazy", "count": "row"}


def masks(seed, count=25, rows=7):
    """A mask and a number for each call; none of the rows, all of them, and a late one."""
    random = np.random.default_rng(seed)
    marked = random.random((count, rows)) < 0.4
    marked[3], marked[:20, 5], marked[11] = False, False, True
    return marked


def alone(kind, start, calls, lr=0.1, **options):
    """Rows and their numbers of steps, each of a dense optimiser of its own."""
    opts = [kind(row.copy(), lr, **options) for row in start]
    for grads, mask in calls:
        for k in np.flatnonzero(mask):
            opts[k].step(grads[k])
    return np.array([opt.params for opt in opts]), [opt.t for opt in opts]


@pytest.mark.parametrize(
    ("kind", "options", "dtype"),
    [
        (na.Adam, {}, "float64"),
        extras.sweep(na.Adam, {"weight_decay": 0.1, "bounds": (-1, 1), "clip_value": 0.5}, "f8"),
        extras.sweep(na.Adam, {"like": "keras"}, "float32"),
        extras.sweep(na.AdamW, {"amsgrad": "vhat", "decay_times_lr": False}, "float64"),
        (na.NAdam, {}, "float64"),
        extras.sweep(na.NAdam, {"like": "torch"}, "float64"),
        extras.sweep(na.RAdam, {}, "float32"),
        extras.sweep(na.AdaMax, {}, "float64"),
        extras.sweep(na.AdaBelief, {}, "float32"),
        extras.sweep(na.SGD, {"momentum": 0.9}, "float64"),
        extras.sweep(Yogi, {}, "float32"),
    ],
)
def test_a_row_steps_as_one_alone(kind, options, dtype):
    random, marked = np.random.default_rng(0), masks(1)
    start = random.uniform(-1, 1, (7, 3)).astype(dtype)
    calls = [(random.standard_normal((7, 3)).astype(dtype), mask) for mask in marked]
    opt = kind(start.copy(), 0.1, **ROW, **options)
    for k, (grads, mask) in enumerate(calls):
        if k == 11:
            opt.step(grads)  # a dense gradient is one of all rows
        elif k % 2:
            opt.step(na.Rows(mask, grads[mask]))
        else:
            opt.step(grads, rows=mask)
    params, counts = alone(kind, start, calls, **options)
    assert_same_bits(opt.params, params)
    assert opt.state["row_counts"].tolist() == counts
    assert opt.t == len(calls)


def test_a_row_seen_late_moves_by_lr():
    """In gsplat#604 it moves by 3.2 lr: 0.1 / sqrt(0.001), with no correction left."""
    points, visible = np.zeros((4, 3)), np.array([True, True, True, False])
    opts = {count: na.Adam(points.copy(), 0.01, sparse="lazy", count=count) for count in COUNTS}
    for opt in opts.values():
        opt.step(np.ones((4, 3)), rows=visible)
        opt.t = 10_000
        opt.step(np.ones((4, 3)), rows=~visible)
    np.testing.assert_allclose(opts["row"].params[3], -0.01, rtol=1e-6)
    np.testing.assert_allclose(opts["step"].params[3], -0.0316, rtol=1e-3)


def several(seed=6):
    random = np.random.default_rng(seed)
    return {
        "points": random.standard_normal((9, 3)),
        "opacity": random.standard_normal(9),
        "camera": [random.standard_normal((2, 2)), np.array(0.5), np.zeros((3, 0))],
    }


def test_several_arrays_with_groups_norm_and_schedule():
    """Against two optimisers with the counts of each call written into t."""
    params, wanted = several(), several()
    groups = {"opacity": {"lr": 0.5, "beta1": 0.5}}
    lr = na.schedules.Cosine(0.1, steps=20)
    shared = {"groups": groups, "clip_norm": 1.0, "sparse": "lazy"}
    opt, ref = na.Adam(params, lr, count="row", **shared), na.Adam(wanted, lr, **shared)
    seen = np.arange(9) % 3 == 1
    for k in range(4):
        grads, mask = several(k), seen if k < 3 else ~seen
        rows = {"points": mask, "opacity": mask, "camera": [None, None, None]}
        opt.step(grads, rows=rows)
        if k < 3:  # all rows that step have the same count
            ref.step(grads, rows=rows)
    for one, other in zip(params["camera"], wanted["camera"], strict=True):
        assert one.shape == other.shape
    assert_same_bits(params["points"][seen], wanted["points"][seen])
    assert_same_bits(params["opacity"][seen], wanted["opacity"][seen])
    counts = opt.state["row_counts"]
    assert counts["points"].tolist() == counts["opacity"].tolist() == [1, 3, 1] * 3
    assert [one.tolist() for one in counts["camera"]] == [[4, 4], 4, [4, 4, 4]]
    factor = min(1.0, 1.0 / opt.grad_norm)
    g = factor * several(3)["points"][~seen]
    moved = lr(3) * g / (abs(g) + 1e-8)  # the first step of these rows; lr is of the fourth
    np.testing.assert_allclose(several()["points"][~seen] - moved, params["points"][~seen])


@pytest.mark.parametrize("size", [1, 13, 1000])
def test_parts_of_any_size_have_the_same_bits(size):
    random, marked = np.random.default_rng(7), masks(8, rows=40)
    grads = random.standard_normal((len(marked), 40, 5))
    opts = [na.Adam(np.ones((40, 5)), clip_norm=1.0, **ROW) for _ in range(2)]
    shorten_parts(opts[1], size)
    for g, mask in zip(grads, marked, strict=True):
        for opt in opts:
            opt.step(g, rows=mask)
    assert_same_bits(opts[0].params, opts[1].params)


def test_counts_far_apart():
    """Few rows with numbers of any size: they are sorted, and no table of all is made."""
    counts, many = np.array([2**40, 0, 7, 0, 2**40 + 1]), np.array([5, 3, 5, 4])
    for given in (counts, many, counts[:0]):
        distinct, classes = classes_of(given)
        assert_same_bits(distinct, np.unique(given))
        assert_same_bits(distinct[classes], given)
    opt = na.Adam(np.zeros(5), 0.1, **ROW)
    opt.state["row_counts"] = counts
    opt.step(np.ones(5))
    np.testing.assert_allclose(opt.params[[1, 3]], -0.1, rtol=1e-6)
    np.testing.assert_allclose(opt.params[[0, 4]], -0.1 * 0.1 / np.sqrt(0.001), rtol=1e-6)
    assert opt.state["row_counts"].tolist() == (counts + 1).tolist()


@pytest.mark.parametrize("kind", [na.Adam, na.NAdam])
def test_products_of_many_steps_as_alone(kind):
    """Of NAdam's the small ones are not formed: nothing that is computed from them can tell."""
    counts = np.array([0, 1, 90, 180, 181, 1000, 20_000])
    opt = kind(np.zeros(7), 0.1, **ROW)
    opt.state["row_counts"] = counts
    opt.step(np.ones(7))
    for k, count in enumerate(counts.tolist()):
        ref = kind(np.zeros(1), 0.1)
        ref.t = count
        ref.step(np.ones(1))
        assert_same_bits(opt.params[k : k + 1], ref.params)


# --- what keeps them, and what does not ----------------------------------------------------------


def stepped(count=6, **options):
    opt = na.NAdam({"w": np.ones((7, 2)), "b": np.ones(7)}, 0.1, **ROW, **options)
    advance(opt, 0, count)
    return opt


def advance(opt, first, last):
    for k, mask in enumerate(masks(9)[first:last], first):
        grads = np.random.default_rng(k).standard_normal((7, 3))
        opt.step({"w": grads[:, :2], "b": grads[:, 2]}, rows={"w": mask, "b": mask})


def assert_equal_after(opt, first, wanted):
    advance(opt, first, 12)
    for name in ("w", "b"):
        assert_same_bits(opt.params[name], wanted.params[name])
        assert_same_bits(opt.state["row_counts"][name], wanted.state["row_counts"][name])


def test_copies_and_files_have_the_counts(tmp_path):
    wanted, opt = stepped(12), stepped()
    opt.save(tmp_path / "run")
    others = [pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt), na.load(tmp_path / "run")]
    state, params = opt.state.copy(), copy.deepcopy(opt.params)
    snapshot = opt.snapshot()
    advance(opt, 6, 12)
    opt.restore(snapshot)
    other = na.NAdam(params, 0.1, **ROW)
    other.state = state
    loaded = stepped(0)
    loaded.load(tmp_path / "run")
    for one in (*others, other, opt, loaded):
        assert one.t == 6
        assert_equal_after(one, 6, wanted)
    opt.reset()
    assert opt.t == 0
    assert not opt.state["row_counts"]["w"].any()
    assert "row_counts" not in na.Adam(np.ones(2), sparse="lazy").state


@pytest.mark.parametrize("options", [{}, {"sparse": "lazy"}])
def test_a_file_of_other_counts_is_refused(tmp_path, options):
    opt = stepped()
    opt.save(tmp_path / "run")
    other = na.NAdam({"w": np.ones((7, 2)), "b": np.ones(7)}, 0.1, **options)
    with pytest.raises(na.CheckpointError, match=r"is .* in the file"):
        other.load(tmp_path / "run")
    assert other.t == 0


@pytest.mark.parametrize(
    ("counts", "error", "says"),
    [
        (np.ones((3, 2), int), ValueError, "state['row_counts']: expected shape (3,)"),
        (np.ones(3), TypeError, "state['row_counts']: expected int64"),
        (np.array([1, -1, 0]), ValueError, "state['row_counts']: expected whole numbers of steps"),
        (
            np.array([1, 2**53, 0]),
            ValueError,
            "state['row_counts']: expected whole numbers of steps",
        ),
    ],
)
def test_counts_that_are_none_are_refused(counts, error, says):
    opt = na.Adam(np.ones((3, 2)), **ROW)
    with pytest.raises(error, match="^" + re.escape(says)):
        opt.state["row_counts"] = counts
    assert opt.state["row_counts"].tolist() == [0, 0, 0]


def test_a_step_that_is_not_taken_counts_no_row():
    start, bad = np.ones((4, 2)), np.full((4, 2), np.nan)
    mask = np.array([True, False, False, True])
    for policy in ("skip", "raise"):
        opt = na.Adam(start.copy(), nonfinite=policy, clip_norm=1.0, **ROW)
        with pytest.raises(ValueError, match="got the row 9"):
            opt.step(na.Rows(np.array([9]), np.ones((1, 2))))
        with pytest.raises(FloatingPointError) if policy == "raise" else nullcontext():
            opt.step(bad, rows=mask)
        assert (opt.state["row_counts"] == 0).all()
        assert_same_bits(opt.params, start)
        opt.step(start, rows=mask)
        assert opt.state["row_counts"].tolist() == [1, 0, 0, 1]


def schedule(taken):
    return 0.9


@pytest.mark.parametrize(
    ("options", "dtype", "says"),
    [
        ({"count": "column"}, "f8", "count: expected 'step' or 'row', got 'column'."),
        ({"count": "row"}, "f8", "count: 'row' counts the steps of rows that step alone"),
        ({"count": "row", "sparse": "dense"}, "f8", "count: 'row' counts the steps of rows"),
        ({**ROW, "beta1": schedule}, "f8", "beta1: with count='row' every row"),
        (ROW, "c16", "count: 'row' is not for complex parameters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_options(options, dtype, says):
    p = np.ones((3, 2), dtype)
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        na.Adam(p, **options)


def test_refused_elsewhere():
    p = np.ones((3, 2))
    for call in (na.minimize, na.minimize_many):
        with pytest.raises((TypeError, ValueError), match=r"^count: .*"):
            call(lambda x: (x @ x, 2 * x), p[0] if call is na.minimize else p, count="row")
    opt = na.NAdam(p, **ROW)
    with pytest.raises(ValueError, match=r"^beta1: with count='row' every row"):
        opt.beta1 = schedule
    opt.beta1 = 0.8
    with pytest.raises(ValueError, match=r"^grads: sparse='lazy' needs parameters whose rows"):
        na.Adam(np.ones((3, 2), order="F"), **ROW).step(np.ones((3, 2)))
    for grads in (np.ones((2, 3)), p.astype("f4"), p):
        with pytest.raises((TypeError, ValueError), match=r"^grads"):
            opt.step(grads)
    assert opt.t == 0
    assert (opt.state["row_counts"] == 0).all()

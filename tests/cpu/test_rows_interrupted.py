"""A step of rows is whole or not at all, whatever comes from outside, and at any point of it."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.processes import strike_everywhere

SHAPES = ((7, 3), (5,))
ROWS = (np.array([1, 4, 5]), np.array([0, 3]))
MASKS = tuple(np.isin(np.arange(shape[0]), rows) for shape, rows in zip(SHAPES, ROWS, strict=True))


def dense_gradients(scale=1.0):
    return [scale * np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape) for shape in SHAPES]


def sparse_gradients(scale=1.0):
    pairs = zip(ROWS, dense_gradients(scale), strict=True)
    return [na.Rows(rows.copy(), gradient[rows]) for rows, gradient in pairs]


def dense_step(opt):
    opt.step(dense_gradients())


def row_step(opt):
    opt.step(sparse_gradients(2.0))


def masked_step(opt):
    opt.step(dense_gradients(2.0), rows=list(MASKS))


def mixed_step(opt):
    opt.step([sparse_gradients(2.0)[0], dense_gradients(2.0)[1]])


def make(options, kind=na.Adam):
    opt = kind([np.full(shape, 0.5) for shape in SHAPES], 0.1, **options)
    row_step(opt)
    dense_step(opt)
    return opt


def content(opt):
    backend = opt._backend
    leaves = (leaf for views in backend.state.values() for leaf in views)
    return b"".join(one.tobytes() for one in (*opt.params, *leaves, *backend.counters.values()))


def after(options, *steps, kind=na.Adam):
    """What these steps lead to, and then one of each kind."""
    opt = make(options, kind)
    for step in steps:
        step(opt)
    found = [content(opt)]
    for step in (dense_step, row_step, dense_step):
        step(opt)
        found.append(content(opt))
    return found


LAZY = {"sparse": "lazy"}
ROW = {**LAZY, "count": "row"}
CASES = [
    pytest.param(na.Adam, LAZY, row_step, id="lazy"),
    pytest.param(na.Adam, ROW, row_step, id="row"),
    pytest.param(na.Adam, ROW, masked_step, id="masks"),
    pytest.param(na.Adam, ROW, mixed_step, id="beside dense ones"),
    pytest.param(na.Adam, {"sparse": "dense"}, row_step, id="dense"),
    pytest.param(
        na.Adam,
        {**LAZY, "clip_norm": 1.0, "nonfinite": "skip", "groups": {"1": {"lr": 0.3}}},
        row_step,
        id="norm",
    ),
]


@pytest.mark.parametrize(("kind", "options", "step"), CASES)
def test_an_exception_at_any_point_leaves_all_or_nothing(kind, options, step):
    allowed = after(options, kind=kind), after(options, step, kind=kind)
    seen = set()

    def check(opt):
        found = [content(opt)]
        for following in (dense_step, row_step, dense_step):
            following(opt)
            found.append(content(opt))
        assert found in allowed
        seen.add(found[0])

    every = 5 if step is row_step and options is ROW else 13
    assert strike_everywhere(lambda: make(options, kind), step, check, every=every) > 500
    assert len(seen) == 2


@pytest.mark.parametrize("options", [LAZY, ROW, {"sparse": "dense"}])
@pytest.mark.parametrize("inner", [dense_step, row_step])
def test_a_step_inside_a_step_of_rows_comes_before_it_or_after_it(options, inner):
    """A signal handler steps the same optimiser."""
    orders, held = [(inner, row_step), (row_step, inner), (row_step,)], []
    allowed = [after(options, *order) for order in orders]

    def fresh():
        held[:] = [make(options)]
        return held[0]

    def check(opt):
        found = [content(opt)]
        for following in (dense_step, row_step, dense_step):
            following(opt)
            found.append(content(opt))
        assert found in allowed

    def strike():
        inner(held[0])

    assert strike_everywhere(fresh, row_step, check, strike=strike, every=17) > 500


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("value", [2**40, -1, 3])
def test_row_numbers_that_change_during_a_step(mask, value):
    """Another thread writes into the buffer of row numbers: the step has those of its begin."""
    start, held = np.full((7, 3), 0.5), []
    index = (MASKS if mask else ROWS)[0]
    values = dense_gradients()[0][ROWS[0]]

    def work(opt):
        try:
            opt.step(na.Rows(held[0], values))
        except ValueError:
            assert opt.t == 0

    def check(opt):
        moved = (opt.params != start).all(axis=1)
        unmoved = (opt.params == start).all(axis=1)
        assert (moved | unmoved).all()
        rows = set(np.flatnonzero(moved))
        assert rows in (set(), set(ROWS[0]), {3})

    def fresh():
        held[:] = [index.copy()]
        return na.SGD(start.copy(), 0.1, sparse="lazy")

    def strike():
        held[0][...] = value

    assert strike_everywhere(fresh, work, check, strike=strike, every=3) > 100


@pytest.mark.parametrize("wrong", [-1, -(2**62), 2**53, 2**62])
def test_counts_written_in_place_are_checked_before_they_are_used(wrong):
    opt = na.Adam(np.ones((4, 2)), sparse="lazy", count="row")
    opt.state["row_counts"][2] = wrong
    before = opt.params.copy()
    says = rf"^state\['row_counts'\]: expected whole numbers of steps .*, got {wrong}\.$"
    for gradient in (na.Rows(np.array([0, 2]), np.ones((2, 2))), np.ones((4, 2))):
        with pytest.raises(ValueError, match=says):
            opt.step(gradient)
    assert opt.t == 0
    np.testing.assert_array_equal(opt.params, before)
    opt.state["row_counts"][2] = 7
    opt.step(np.ones((4, 2)))
    assert opt.state["row_counts"].tolist() == [1, 1, 8, 1]

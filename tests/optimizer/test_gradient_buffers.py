"""`opt.grads`: one flat buffer that a caller fills."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import numadam as na
from tests.bad_arrays import assert_unchanged, snapshot
from tests.bits import DTYPES, KERNELS, RULES
from tests.optimizer.nested import tree_of
from tests.trees import assert_leaves, assert_same_containers, tree_leaves, tree_map


@pytest.mark.parametrize("dtype", DTYPES)
def test_grads_lie_in_one_flat_buffer(dtype):
    params = tree_of(0, dtype)
    opt = na.Adam(params)
    grads = opt.grads
    assert grads is opt.grads
    assert_same_containers(tree_map(lambda a: 0, grads), tree_map(lambda a: 0, params))
    places = []
    for g, p in zip(tree_leaves(grads), tree_leaves(params), strict=True):
        assert g.shape == p.shape
        assert g.dtype == p.dtype
        assert not g.any()
        if g.size:
            places.append((np.lib.array_utils.byte_bounds(g)[0], g.nbytes))
    places.sort()
    for (first, size), (after, _) in itertools.pairwise(places):
        assert after == first + -(-size // 64) * 64
    assert places[0][0] % 64 == 0  # so that each leaf begins on a cache line


@pytest.mark.parametrize("name", KERNELS)
def test_step_takes_grads_that_were_filled(name):
    make = RULES[name][0]
    params, expected = tree_of(0), tree_of(0)
    opt, other = make(params, 0.1), make(expected, 0.1)
    for k in range(3):
        g = tree_of(10 + k)
        tree_map(lambda own, new: np.copyto(own, new), opt.grads, g)
        opt.step()
        other.step(g)
        assert_leaves(opt.grads, tree_leaves(g))
    assert_leaves(params, tree_leaves(expected))
    opt.step(tree_of(5))  # other gradients may come in between
    other.step(tree_of(5))
    opt.step()
    other.step(g)
    opt.step(opt.grads)
    other.step(g)
    assert_leaves(params, tree_leaves(expected))


def test_grads_of_one_array():
    p = np.zeros(3)
    opt = na.SGD(p, lr=1.0)
    opt.grads[:] = [1, 2, 3]
    opt.grads *= 2
    opt.step()
    assert p.tolist() == [-2, -4, -6]
    out = np.empty(3)
    opt.step(out=out)
    assert out.tolist() == [-2, -4, -6]


def test_assignment_to_grads_copies():
    params = [np.zeros(3), np.zeros((2, 2))]
    opt = na.SGD(params, lr=1.0)
    own = opt.grads
    given = [np.ones(3), np.full((2, 2), 2.0)]
    opt.grads = given
    assert opt.grads is own
    given[0][:] = 99
    opt.step()
    assert params[0].tolist() == [-1] * 3
    assert params[1].tolist() == [[-2, -2]] * 2
    opt.grads = [own[0][::-1], own[1].T]  # views of themselves
    assert own[1].tolist() == [[2, 2]] * 2


def test_assignment_to_grads_of_their_own_entries():
    opt = na.SGD([np.zeros(2), np.zeros(2)], lr=1.0)
    first, second = opt.grads
    first[:], second[:] = 1.0, 2.0
    opt.grads = [second, first]
    assert (first.tolist(), second.tolist()) == ([2, 2], [1, 1])


def test_replaced_gradient_buffer_is_refused():
    for params, key in (({"w": np.ones(3), "b": np.ones(2)}, "b"), ([np.ones(3), np.ones(2)], 1)):
        opt = na.Adam(params)
        opt.grads[key] = np.ones(2)
        before = snapshot(opt, params)
        with pytest.raises(ValueError, match=rf"^opt\.grads\[{key!r}\]: .*\[\.\.\.\] = x"):
            opt.step()
        assert_unchanged(before, snapshot(opt, params))


BAD_GRADS = {
    "shape": (lambda: np.ones(3), ValueError),
    "broadcastable": (lambda: np.ones(1), ValueError),
    "complex": (lambda: np.ones(2, complex), TypeError),
    "string": (lambda: np.array(["a", "b"]), TypeError),
    "object": (lambda: np.array([None, "x"]), TypeError),
    "None": (lambda: None, (TypeError, ValueError)),
    "number": (lambda: 1.0, (TypeError, ValueError)),
    "list": (lambda: [1.0, 1.0], (TypeError, ValueError)),
    "masked": (lambda: np.ma.masked_array(np.ones(2), [0, 1]), TypeError),
}


@pytest.mark.parametrize("case", BAD_GRADS)
def test_bad_assignment_to_grads_changes_nothing(case):
    """Refused by name, also where only the last array is bad."""
    build, error = BAD_GRADS[case]
    opt = na.Adam([np.ones(3), np.ones(2)])
    opt.grads = [np.full(3, 5.0), np.full(2, 6.0)]
    with pytest.raises(error, match=r"^grads(\[1\])?: "):
        opt.grads = [np.ones(3), build()]
    assert opt.grads[0].tolist() == [5] * 3
    assert opt.grads[1].tolist() == [6] * 2


def test_gradient_buffers_are_seen_as_out_and_params():
    """The optimiser's own buffers are checked like any other gradient."""
    for n in (1, 2):
        opt = na.SGD([np.ones(4) for _ in range(n)], lr=1.0)
        swapped = opt.grads[::-1]
        with pytest.raises(ValueError, match="shares memory"):
            opt.step(out=swapped)
        with pytest.raises(ValueError, match="shares memory"):
            opt.step(params=swapped)
        assert opt.t == 0


def test_assignment_to_grads_writes_into_own_buffers_only():
    opt = na.SGD([np.ones(3), np.ones(2)])
    mine = np.full(3, 5.0)
    opt.grads[0] = mine
    with pytest.raises(ValueError, match=r"^opt\.grads\[0\]: was replaced"):
        opt.grads = [np.zeros(3), np.zeros(2)]
    np.testing.assert_array_equal(mine, np.full(3, 5.0))

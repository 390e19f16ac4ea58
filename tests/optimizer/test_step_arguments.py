"""Arguments of `step`, and `opt.grads`, the buffer that a caller fills."""

from __future__ import annotations

import gc
import itertools
import re
import weakref

import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.bits import DTYPES, KERNELS, OTHERS, RULES, assert_same_bits
from tests.runs import tree_of
from tests.trees import (
    assert_leaves,
    assert_same_containers,
    assert_unchanged,
    snapshot,
    tree_leaves,
    tree_map,
)


@pytest.mark.parametrize("name", [*KERNELS, *map(extras.sweep, OTHERS)])
def test_params_of_one_call(name):
    """The state moves on, and the optimiser's own parameters stay until the next step."""
    make = RULES[name][0]
    own, other, expected, last = (tree_of(k) for k in (0, 1, 1, 0))
    opt, twin, fresh = make(own, 0.1), make(expected, 0.1), make(last, 0.1)
    for seed in (2, 3):
        opt.step(tree_of(seed), params=other)
        twin.step(tree_of(seed))
    assert_leaves(own, tree_leaves(last))
    assert_leaves(other, tree_leaves(expected))
    assert opt.t == 2
    assert opt.params is own
    fresh.state = {**twin.state}
    for one in (opt, fresh):
        one.step(tree_of(4))
    assert_leaves(own, tree_leaves(last))


def test_arrays_of_one_call_are_not_kept():
    for count in (1, 3):
        opt = na.Adam([np.ones(4) for _ in range(count)])
        grads, out, params = ([np.ones(4) for _ in range(count)] for _ in range(3))
        alive = [weakref.ref(a) for a in [*grads, *out, *params]]
        opt.step(grads)
        opt.step(grads, out=out)
        opt.step(grads, params=params)
        del grads, out, params
        gc.collect()
        assert all(ref() is None for ref in alive)


def test_lr_of_one_call():
    def never(taken):
        assert made is None, "a schedule is not asked"
        return 0.5

    p, q, made = np.ones(3), np.ones(3), None
    made = opt = na.SGD(p, lr=never)
    other = na.SGD(q, lr=0.25)
    assert opt.step(np.ones(3), lr=0.25) is None
    other.step(np.ones(3))
    assert_same_bits(p, q)
    assert opt.lr is never
    opt.step(np.ones(3), lr=0)
    assert_same_bits(p, q)
    before = snapshot(opt, p)
    for bad, error in [(-1, ValueError), (np.nan, ValueError), ("x", TypeError), ([1], TypeError)]:
        with pytest.raises(error, match=r"^lr: expected a number"):
            opt.step(np.ones(3), lr=bad)
    assert_unchanged(before, snapshot(opt, p))


def test_step_without_gradients():
    opt = na.Adam(np.ones(3))
    with pytest.raises(ValueError, match=r"^grads: .*opt\.grads"):
        opt.step()
    assert opt.t == 0


def test_replaced_parameter_is_refused():
    """The optimiser would go on moving an array that the container no longer holds."""
    nested = {"layer": [np.ones(3), np.ones(2)]}
    flat = [np.ones(3), np.ones(2)]
    for params, entry, name in ((nested, nested["layer"], "['layer'][1]"), (flat, flat, "[1]")):
        opt = na.Adam(params)
        old = entry[1]
        entry[1] = entry[1] * 2
        with pytest.raises(ValueError, match=rf"^params{re.escape(name)}: was replaced"):
            opt.step(params)
        assert opt.t == 0
        opt.step(
            [np.ones(3), np.ones(2)] if params is flat else {"layer": [np.ones(3), np.ones(2)]},
            params=params,
        )  # arrays of this call only
        np.testing.assert_array_equal(old, np.ones(2))
        entry[1] = old
        with pytest.raises(ValueError, match="shares memory"):
            opt.step(params)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float64") for name in KERNELS),
        *(extras.sweep(name, "float32") for name in KERNELS + OTHERS),
        extras.sweep("adam paper", "float64"),
    ],
)
def test_out_is_the_direction(name, dtype):
    """p + out is what the step would have made of p, bit for bit; p stays, m, v and t move."""
    make = RULES[name][0]
    params, stepped, out = tree_of(0, dtype), tree_of(0, dtype), tree_of(9, dtype)
    opt, other = make(params, 0.1), make(stepped, 0.1)
    for k in range(4):
        before = tree_map(np.copy, params)
        g = tree_of(20 + k, dtype)
        opt.step(g, out=out)
        other.step(g)
        assert_leaves(params, tree_leaves(before))
        tree_map(lambda p, o: np.add(p, o, out=p), params, out)
        assert_leaves(params, tree_leaves(stepped))
    assert opt.t == other.t == 4
    for key in set(opt.state) - {"t"}:
        assert_leaves(opt.state[key], tree_leaves(other.state[key]))
    opt.step(tree_of(30, dtype))  # and without out it is applied again
    other.step(tree_of(30, dtype))
    assert_leaves(params, tree_leaves(stepped))


def test_out_with_params_and_lr_of_one_call():
    opt, other, out = na.SGD(np.zeros(3), lr=1.0), np.full(3, 7.0), np.empty(3)
    opt.step(np.ones(3), params=other, lr=0.5, out=out)
    assert (other.tolist(), out.tolist(), opt.params.tolist()) == ([7] * 3, [-0.5] * 3, [0] * 3)


def test_many_columns_of_one_matrix_are_told_apart_once():
    """Their bounds interleave; that no element is shared is found once, not at every step."""
    matrix = np.zeros((50, 300))
    opt = na.SGD([matrix[:, k] for k in range(300)], lr=1.0)
    for _ in range(20):
        opt.step([np.full(50, float(k)) for k in range(300)])
    np.testing.assert_array_equal(matrix, np.tile(-20.0 * np.arange(300), (50, 1)))


def test_a_subclass_cannot_keep_the_step_from_ending():
    class Stubborn(np.ndarray):
        def view(self, *args, **kwargs):
            return np.ndarray.view(self, type(self))

    p = np.ones(3)
    na.SGD(p, lr=1.0).step(np.ones(3).view(Stubborn))
    np.testing.assert_array_equal(p, np.zeros(3))


@pytest.mark.parametrize("name", ["params", "out"])
def test_one_array_of_the_call_that_does_not_fit_at_once(name):
    """Strided, a subclass, and refused ones: the bits of the step that fits at once."""
    g = np.array([[0.5, -2.0, 3.0], [1.0, 0.0, -1.0]])
    expected, usual = np.zeros((2, 3)), np.zeros((2, 3))
    na.Adam(usual, lr=0.1).step(g, **{name: expected})
    wide = np.zeros((2, 6))
    for view in (wide[:, ::2], np.zeros((3, 2)).T, np.zeros((2, 3)).view(np.matrix)):
        p = np.zeros((2, 3))
        opt = na.Adam(p, lr=0.1)
        opt.step(g.copy(order="F"), **{name: view})
        assert_same_bits(np.asarray(view), expected)
        assert not p.any()
        assert opt.t == 1
    assert not wide[:, 1::2].any()
    opt = na.Adam(np.zeros((2, 3)), lr=0.1)
    locked = np.zeros((2, 3))
    locked.flags.writeable = False
    for bad, says in (
        (locked, f"^{name}: is read-only"),
        (np.zeros((3, 2)), f"^{name}: expected shape"),
        (np.zeros((2, 3), np.float32), f"^{name}: .*float32"),
        (7.0, f"^{name}: expected a NumPy"),
        (g, f"^grads shares memory with {name}"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            opt.step(g, **{name: bad})
    with pytest.raises(TypeError, match=r"^grads: "):
        opt.step(7.0, **{name: np.zeros((2, 3))})
    assert opt.t == 0
    assert not opt.state["m"].any()


# --- opt.grads ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", [*KERNELS, *map(extras.sweep, OTHERS)])
def test_step_takes_grads_that_were_filled(name):
    make = RULES[name][0]
    params, expected = tree_of(0), tree_of(0)
    opt, other = make(params, 0.1), make(expected, 0.1)
    for k in range(3):
        g = tree_of(10 + k)
        tree_map(lambda own, new: np.copyto(own, new), opt.grads, g)
        opt.step()
        opt.step(tree_of(5))  # other gradients may come in between
        opt.step()
        opt.step(opt.grads)
        for grads in (g, tree_of(5), g, g):
            other.step(grads)
        assert_leaves(opt.grads, tree_leaves(g))
        assert_leaves(params, tree_leaves(expected))


def test_assignment_to_grads_copies():
    opt = na.SGD([np.zeros(3), np.zeros(3)], lr=1.0)
    first, second = own = opt.grads
    given = [np.ones(3), np.arange(3.0)]
    opt.grads = given
    assert opt.grads is own
    given[0][:] = 99
    assert (first.tolist(), second.tolist()) == ([1, 1, 1], [0, 1, 2])
    opt.grads = [second[::-1], first]  # entries and views of themselves
    assert (first.tolist(), second.tolist()) == ([2, 1, 0], [1, 1, 1])


def test_replaced_gradient_buffer_is_refused():
    for params, key in (({"w": np.ones(3), "b": np.ones(2)}, "b"), ([np.ones(3), np.ones(2)], 1)):
        opt = na.Adam(params)
        opt.grads[key] = np.ones(2)
        before = snapshot(opt, params)
        with pytest.raises(ValueError, match=rf"^opt\.grads\[{key!r}\]: .*\[\.\.\.\] = x"):
            opt.step()
        assert_unchanged(before, snapshot(opt, params))


BAD_GRADS = {
    "broadcastable": np.ones(1),
    "complex": np.ones(2, complex),
    "None": None,
    "list": [1.0, 1.0],
}


@pytest.mark.parametrize("case", BAD_GRADS)
def test_bad_assignment_to_grads_changes_nothing(case):
    """Refused by name, also where only the last array is bad."""
    opt = na.Adam([np.ones(3), np.ones(2)])
    opt.grads = [np.full(3, 5.0), np.full(2, 6.0)]
    with pytest.raises((TypeError, ValueError), match=r"^grads(\[1\])?: "):
        opt.grads = [np.ones(3), BAD_GRADS[case]]
    assert [g.tolist() for g in opt.grads] == [[5] * 3, [6] * 2]


def test_assignment_to_grads_writes_into_own_buffers_only():
    opt = na.SGD([np.ones(3), np.ones(2)])
    mine = np.full(3, 5.0)
    opt.grads[0] = mine
    with pytest.raises(ValueError, match=r"^opt\.grads\[0\]: was replaced"):
        opt.grads = [np.zeros(3), np.zeros(2)]
    np.testing.assert_array_equal(mine, np.full(3, 5.0))

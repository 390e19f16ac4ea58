"""Distributed parameters: for any cut into blocks the bits of one process, with every option."""

from __future__ import annotations

import copy
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import numadam as na
from tests.mpi.problems import Twins, cutter, random_tree, same_bits

NESTED = {"w": (40, 3), "layers": [(17,), (600, 2)]}
FLAT = {"x": (1500,)}


LOW = np.linspace(-1.0, 0.0, 1200).reshape(600, 2)


def everything(cut):
    """Options of the one pass that are numbers, or arrays of their own."""
    low = cut({"w": np.full((40, 3), -0.5), "layers": [np.full(17, -2.0), LOW]})
    return {
        "clip_norm": na.schedules.Cosine(2.0, 6),
        "clip_value": 3.0,
        "weight_decay": 1e-2,
        "maximize": True,
        "loss_scale": 4.0,
        "nonfinite": "skip",
        "accumulate": 2,
        "ema": 0.9,
        "bounds": {"w": (low["w"], None), "layers": [(x, None) for x in low["layers"]]},
        "groups": {"layers.*": {"lr": 0.2, "weight_decay": 0.0}},
    }


NORM = {"clip_norm": 0.5}
RATES = np.linspace(0.0, 0.1, 1500)
#: Class, shapes, dtype and options.
CASES: dict[str, tuple[Any, Any, Any, Any]] = {
    "float32": (na.Adam, FLAT, "f4", lambda cut: NORM),
    "float64, of each array": (na.AdamW, NESTED, "f8", lambda cut: {"clip_array_norm": 0.5}),
    "complex128": (na.Adam, FLAT, "c16", lambda cut: NORM),
    "bfloat16": (
        na.Adam,
        FLAT,
        ml_dtypes.bfloat16,
        lambda cut: {**NORM, "master": True, "lr": cut({"x": RATES})},
    ),
    "no norm": (na.SGD, NESTED, "f4", lambda cut: {"momentum": 0.9, "nesterov": True}),
}


@pytest.mark.ranks(2)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", CASES)
def test_any_cut_has_the_bits_of_one_process(comm, case, seed):
    kind, shapes, dtype, options = CASES[case]
    twins = Twins(comm, random_tree(shapes, dtype, 1), options, kind, seed)
    for k in range(5):
        grads = random_tree(shapes, dtype, k, spread=40.0 if dtype == "f8" else 0.0)
        twins.step(grads)
        twins.check()


def test_all_options_of_the_pass_at_once(comm):
    """Gradients that are not finite lie in the block of one rank alone; all skip the step."""
    twins = Twins(comm, random_tree(NESTED, "f8", 1), everything)
    for k in range(7):
        grads = random_tree(NESTED, np.float64, k, spread=2.0)
        if k == 2:
            grads["layers"][1][599] = np.nan
        twins.step(grads)
        twins.check()
    assert twins.mine.skipped == 1
    assert twins.whole.flush()
    assert twins.mine.flush()
    twins.check()
    assert not twins.mine.flush()


def test_a_guard_that_raises_does_so_on_all_ranks(comm):
    twins = Twins(comm, random_tree(FLAT, "f4", 1), lambda cut: {**NORM, "nonfinite": "raise"})
    grads = random_tree(FLAT, "f4", 1)
    twins.step(grads)
    grads["x"][-1] = np.inf
    with pytest.raises(FloatingPointError, match="at step 2; nothing was changed"):
        twins.mine.step(twins.cut(grads))
    twins.whole.grad_norm  # noqa: B018  # of the last gradients, here as there
    with pytest.raises(FloatingPointError):
        twins.whole.step(grads)
    twins.check()


def test_ghost_cells_are_stepped_and_do_not_count(comm):
    """Each block has a row more on either side; NaN there does not matter."""
    n, rank, size = 1000, comm.rank, comm.size
    whole, grads = (random_tree({"x": (n, 3)}, "c16", k)["x"] for k in (1, 2))
    first, last = n * rank // size, n * (rank + 1) // size
    rows = np.arange(first - 1, last + 1)
    owned = np.zeros((len(rows), 3), bool)
    owned[1:-1] = True
    block, domain = whole[rows % n].copy(), na.mpi.Decomposition(comm, {"a": owned})
    opt = na.Adam({"a": block}, comm=domain, **NORM, nonfinite="raise")
    one = na.Adam(whole, **NORM, nonfinite="raise")
    owned[...] = False  # of the caller's; the optimiser has a copy
    for k in range(3):
        g = grads[rows % n] * 10.0**k
        g[0] = g[-1] = np.nan if k == 1 else g[-1]
        opt.step({"a": g})
        one.step(grads * 10.0**k)
        assert opt.grad_norm == one.grad_norm
        assert same_bits(block[1:-1], whole[first:last])
    assert np.isnan(block[[0, -1]]).all()


def test_ghosts_of_the_accumulated_gradient_and_at_bounds(comm):
    owned = np.array([False, True, True, True])
    x, y = np.array([1.0, 0.5, 1.0, 0.2]), np.array([0.5, 1.0, 0.2] * comm.size)
    options = {"clip_array_norm": 0.1, "accumulate": 2, "bounds": (0.0, 1.0)}
    opt = na.Adam(x, comm=na.mpi.Decomposition(comm, owned), **options)
    one = na.Adam(y, **options)
    for _ in range(4):
        opt.step(np.array([np.inf, 3.0, -4.0, 5.0]))
        one.step(np.array([3.0, -4.0, 5.0] * comm.size))
    assert opt.grad_norm == one.grad_norm
    assert same_bits(x[1:], y[:3])


def test_all_of_a_block_may_be_ghosts(comm):
    """Then only zeros are added."""
    mask = np.full(500, comm.rank == 0)
    opt = na.Adam(np.ones(500, "f4"), comm=na.mpi.Decomposition(comm, mask), **NORM)
    opt.step(np.full(500, 3.0 if comm.rank == 0 else np.nan, "f4"))
    assert opt.grad_norm == np.sqrt(4500.0)


def test_out_and_params_of_a_call(comm):
    g = random_tree(FLAT, "f4", 3)["x"]
    cut = cutter(comm, 2)
    one = na.Adam(np.zeros(1500, np.float32), **NORM)
    opt = na.Adam(cut(np.zeros(1500, np.float32)), **NORM, comm=comm)
    out, other = np.empty(1500, np.float32), np.ones(1500, np.float32)
    one.step(g, out=out)
    one.step(g, params=other, lr=0.5)
    mine, block = np.empty(len(cut(g)), np.float32), np.ones(len(cut(g)), np.float32)
    opt.step(cut(g), out=mine)
    opt.step(cut(g), params=block, lr=0.5)
    assert same_bits([mine, block], [cut(out), cut(other)])


def test_sparse_and_strided_gradients(comm):
    """The rows of a sparse gradient lie on some ranks; each block has a layout of its own."""
    whole = np.ones((30, 4))
    block = np.ones((30, 8))[:, ::2] if comm.rank else np.ones((30, 4), order="F")
    one = na.SGD([whole], clip_norm=0.1, sparse="dense")
    opt = na.SGD([block], clip_norm=0.1, sparse="dense", comm=comm)
    values = random_tree({"x": (5, 4)}, np.float64, 3)["x"]
    rows = np.arange(0, 10, 2) + 3
    empty = na.Rows(rows[:0], values[:0])
    for _ in range(3):
        mine = na.Rows(rows, values) if comm.rank == comm.size - 1 else empty
        opt.step([mine])
        one.step([na.Rows(rows, values)])
        assert opt.grad_norm == one.grad_norm
    if comm.rank == comm.size - 1:
        assert same_bits(np.array(block), whole)
    else:
        assert (block == 1.0).all()


def test_large_blocks_in_threads(comm):
    """The step has let the GIL go when it asks Python for the sums of the others."""
    n = 400_000
    x, g = np.ones(n, np.float32), random_tree({"x": (n,)}, np.float32, 5)["x"]
    twins = Twins(comm, {"x": x}, lambda cut: NORM)
    for k in range(3):
        twins.step({"x": g * np.float32(10.0**k)})
    twins.check()


def test_copies_snapshots_and_state(comm):
    twins = Twins(comm, random_tree(FLAT, "f4", 1), lambda cut: NORM)
    grads = random_tree(FLAT, "f4", 2)
    twins.step(grads)
    snap, saved = twins.mine.snapshot(), twins.mine.state.copy()
    clone = copy.deepcopy(twins.mine)
    twins.mine.step(twins.cut(grads))
    twins.mine.restore(snap)
    assert same_bits(saved, twins.mine.state.copy())
    clone.step(twins.cut(grads))
    twins.step(grads)
    assert same_bits(clone.params, twins.block)
    assert repr(clone.comm) == f"rank {comm.rank} of {comm.size}"
    twins.mine.reset()
    assert twins.mine.t == 0

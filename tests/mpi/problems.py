"""Problems cut into blocks, one for each rank, beside the same problem in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import numadam as na


def edges(n: int, ranks: int, seed: int) -> list[int]:
    """Where blocks begin and end; with seed 0 all but the last one are empty."""
    if seed == 0:
        return [0] * ranks + [n]
    inner = np.random.default_rng(seed).integers(0, n + 1, ranks - 1)
    return [0, *np.sort(inner).tolist(), n]


def cutter(comm: Any, seed: int) -> Callable[[Any], Any]:
    """``cut(tree)``: this rank's block of every array, along the first axis."""

    def block(whole: Any) -> Any:
        at = edges(len(whole), comm.size, seed)
        return whole[at[comm.rank] : at[comm.rank + 1]]

    return lambda tree: optree.tree_map(block, tree)


def random_tree(like: Any, dtype: Any, seed: int, spread: float = 0.0) -> Any:
    """Arrays of these shapes, of many magnitudes where `spread` is not 0."""
    rng = np.random.default_rng(seed)

    def one(shape: tuple[int, ...]) -> np.ndarray:
        x = rng.standard_normal(shape) * np.exp(spread * rng.standard_normal(shape))
        if np.dtype(dtype).kind == "c":
            x = x + 1j * rng.standard_normal(shape)
        return x.astype(dtype)

    return optree.tree_map(one, like, is_leaf=lambda x: isinstance(x, tuple))


def same_bits(tree: Any, other: Any) -> bool:
    """Whether the arrays of both are equal bit for bit."""
    pairs = zip(optree.tree_leaves(tree), optree.tree_leaves(other), strict=True)
    return all((a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes()) for a, b in pairs)


def same_but_for_norms(tree: Any, other: Any) -> bool:
    """Whether float32 has the same bits; float64, the last places of a norm may change it."""
    pairs = zip(optree.tree_leaves(tree), optree.tree_leaves(other), strict=True)
    return all(
        np.allclose(a, b, rtol=1e-8, atol=0.0, equal_nan=True)
        if np.asarray(a).dtype.name in ("float64", "complex128")
        else same_bits(a, b)
        for a, b in pairs
    )


def fails_on(comm: Any, rank: int, error: Any, match: str | None = None) -> Any:
    """Expect an error of one rank's own there, and RankError on the others."""
    own = comm.rank == rank % comm.size
    return pytest.raises(error if own else na.mpi.RankError, match=match)


class Twins:
    """The whole problem in this process, and this rank's block of it.

    Parameters
    ----------
    kind : type
        Class of optimiser.
    options : callable
        ``options(cut)``: the options, with all arrays in them cut.
    """

    def __init__(
        self,
        comm: Any,
        params: Any,
        options: Callable[[Callable[[Any], Any]], dict[str, Any]],
        kind: Any = na.Adam,
        seed: int = 1,
    ) -> None:
        self.cut = cutter(comm, seed)
        self.params = optree.tree_map(np.array, params)
        self.block = optree.tree_map(np.array, self.cut(params))
        self.whole = kind(self.params, **options(lambda tree: tree))
        self.mine = kind(self.block, comm=comm, **options(self.cut))

    def step(self, grads: Any, **more: Any) -> None:
        """One step of both."""
        self.whole.step(grads, **more)
        self.mine.step(self.cut(grads), **more)

    def check(self) -> None:
        """Compare all of both: bit for bit, where no sum of all ranks comes in."""
        whole, mine = self.whole, self.mine
        is_normed = whole.clip_norm is not None or whole.clip_array_norm is not None
        same = same_but_for_norms if is_normed else same_bits
        assert same(self.cut(self.params), self.block)
        assert list(whole.state) == list(mine.state)
        for name, value in whole.state.items():
            counter = isinstance(value, np.ndarray) and value.ndim == 0
            assert same(value if counter else self.cut(value), mine.state[name]), name
        assert (whole.t, whole.skipped) == (mine.t, mine.skipped)
        if is_normed:
            np.testing.assert_allclose(whole.grad_norm, mine.grad_norm, rtol=1e-14)

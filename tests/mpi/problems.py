"""Problems cut into blocks, one for each rank, beside the same problem in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
import pytest

import numadam as na
from tests.minimize.compared import why


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
        """Compare all of both, bit for bit."""
        whole, mine = self.whole, self.mine
        assert same_bits(self.cut(self.params), self.block)
        assert list(whole.state) == list(mine.state)
        for name, value in whole.state.items():
            counter = isinstance(value, np.ndarray) and value.ndim == 0
            assert same_bits(value if counter else self.cut(value), mine.state[name]), name
        assert (whole.t, whole.skipped) == (mine.t, mine.skipped)
        if whole.clip_norm is not None or whole.clip_array_norm is not None:
            np.testing.assert_array_equal(whole.grad_norm, mine.grad_norm)


# --- minimisations -------------------------------------------------------------------------------


def cut(comm, n, empty=False):
    """The slice of `n` elements that this rank owns: unequal parts, or none on the last rank."""
    ranks = comm.size - 1 if empty and comm.size > 1 else comm.size
    ends = [round(n * (k / ranks) ** 1.3) for k in range(ranks + 1)] + [n]
    return slice(ends[comm.rank], ends[comm.rank + 1])


class Chain:
    """Elements drawn to their targets and to their neighbours, with a curvature of their own.

    ``whole(x)`` is f and gradient of all elements; ``fun(x)`` the same function of this rank's
    part, with the same bits, since each rank sees all of x. ``share(x)`` is what this part adds to
    f where neighbours do not count.
    """

    def __init__(self, comm, coupling=0.5, empty=False, n=23, dtype=np.float64):
        rng = np.random.default_rng(5)
        self.target = rng.uniform(0.5, 2.0, n).astype(dtype)
        self.weight = rng.uniform(0.2, 3.0, n).astype(dtype)
        self.comm, self.coupling, self.n, self.start = comm, coupling, n, np.zeros(n, dtype)
        self.part = cut(comm, n, empty)
        self.x0 = self.start[self.part]

    def whole(self, x):
        away = x - self.target
        jumps = np.diff(x)
        pull = np.zeros_like(x)
        pull[1:] += jumps
        pull[:-1] -= jumps
        f = float(np.sum(self.weight * away**2) + self.coupling * np.sum(jumps**2))
        return f, 2 * (self.weight * away + x.dtype.type(self.coupling) * pull)

    def fun(self, x):
        f, g = self.whole(np.concatenate(self.comm.allgather(x)))
        return f, g[self.part]

    def share(self, x):
        away, weight = x - self.target[self.part], self.weight[self.part]
        return float(np.sum(weight * away**2)), 2 * weight * away

    def run(self, fun=None, **options):
        """The run of all ranks."""
        options = {"jac": True, "comm": self.comm, "lr": 0.1} | options
        return na.minimize(fun or self.fun, self.x0, **options)

    def alone(self, **options):
        """The run of one process; a schedule may have a state of its own."""
        options = {"jac": True, "lr": 0.1} | copy.deepcopy(options)
        return na.minimize(self.whole, self.start, **options)

    def check(self, found, alone):
        """Compare the blocks of all ranks with the run of one process, to the bit."""
        for name in ("x", "x_last", "jac"):
            np.testing.assert_array_equal(found[name], alone[name][self.part], err_msg=name)
        for name in ("nit", "nfev", "njev", "status", "fun", "fun_last", "grad_norm"):
            assert found[name] == alone[name], name
        assert why(found) == why(alone)
        for name, values in alone.history.items():
            np.testing.assert_array_equal(found.history[name], values, err_msg=name)
        assert_alike(self.comm, found)


def assert_alike(comm, result):
    """All but the blocks is the same on all ranks."""
    names = ("nit", "status", "message", "fun", "fun_last", "grad_norm")
    mine = [repr(result[name]) for name in names], result.history["fun"].tobytes()
    assert comm.allgather(mine) == [mine] * comm.size

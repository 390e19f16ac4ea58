"""Problems in blocks: each rank has its part of x, and a reference has the whole."""

from __future__ import annotations

import copy

import numpy as np

from numadam import minimize


def cut(comm, n, empty=False):
    """The slice of `n` elements that this rank owns: unequal parts, or none on the last rank."""
    ranks = comm.size - 1 if empty and comm.size > 1 else comm.size
    ends = [round(n * (k / ranks) ** 1.3) for k in range(ranks + 1)] + [n]
    return slice(ends[comm.rank], ends[comm.rank + 1])


class Chain:
    """Elements drawn to their targets and to their neighbours, with a curvature of their own.

    ``whole(x)`` is f and gradient of all elements; ``block(comm)`` the same function of a block,
    with the same bits, since each rank sees all of x.
    """

    def __init__(self, n=23, dtype=np.float64, coupling=0.5):
        rng = np.random.default_rng(5)
        self.target = rng.uniform(0.5, 2.0, n).astype(dtype)
        self.weight = rng.uniform(0.2, 3.0, n).astype(dtype)
        self.coupling, self.n, self.start = coupling, n, np.zeros(n, dtype)

    def whole(self, x):
        away = x - self.target
        jumps = np.diff(x)
        pull = np.zeros_like(x)
        pull[1:] += jumps
        pull[:-1] -= jumps
        f = float(np.sum(self.weight * away**2) + self.coupling * np.sum(jumps**2))
        return f, 2 * (self.weight * away + x.dtype.type(self.coupling) * pull)

    def block(self, comm, part):
        def fun(x):
            f, g = self.whole(np.concatenate(comm.allgather(x)))
            return f, g[part]

        return fun


def run_both(comm, problem, empty=False, **options):
    """The block's result, that of one process, and the slice that one has of the other."""
    part = cut(comm, problem.n, empty)
    # a schedule may have a state of its own
    alone = minimize(problem.whole, problem.start, jac=True, **copy.deepcopy(options))
    fun, x0 = problem.block(comm, part), problem.start[part]
    return minimize(fun, x0, jac=True, comm=comm, **options), alone, part


def assert_same_run(found, alone, part):
    """A block of the run of one process: to the bit."""
    for name in ("x", "x_last", "jac"):
        np.testing.assert_array_equal(found[name], alone[name][part], err_msg=name)
    for name in ("nit", "nfev", "njev", "status", "message", "fun", "fun_last", "grad_norm"):
        assert found[name] == alone[name], name
    for name, values in alone.history.items():
        np.testing.assert_array_equal(found.history[name], values, err_msg=name)


def assert_alike(comm, result):
    """All but the blocks is the same on all ranks."""
    names = ("nit", "status", "message", "fun", "fun_last", "grad_norm")
    mine = [repr(result[name]) for name in names], result.history["fun"].tobytes()
    assert comm.allgather(mine) == [mine] * comm.size

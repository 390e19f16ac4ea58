"""Sides of the suite alone: the memory traffic of a step, and a minimisation."""

import functools

import numba
import numpy as np
from numba import carray, njit, prange

import numadam
from numadam._bench.peers import values
from numadam._cpu.memory import part_size
from numadam._jit import process
from numadam._jit.private import pointer

#: Learning rate in Rosenbrock's valley, and its start.
VALLEY_LR, START = 0.01, (-1.2, 1.0)


@functools.cache
def _stream(dtype, parallel):
    """A loop that adds one array to three others, part by part; a table has their addresses."""
    each, item = prange if parallel else range, dtype.itemsize

    def loop(table_at):
        table = carray(pointer(table_at, np.int64), 6)
        total, size = table[4], table[5]
        for part in each((total + size - 1) // size):
            n, first = min(size, total - part * size), part * size * item
            p = carray(pointer(table[0] + first, dtype), n)
            g = carray(pointer(table[1] + first, dtype), n)
            m = carray(pointer(table[2] + first, dtype), n)
            v = carray(pointer(table[3] + first, dtype), n)
            for i in range(n):
                x = g[i]
                p[i], m[i], v[i] = p[i] + x, m[i] + x, v[i] + x

    return njit(parallel=parallel, error_model="numpy")(loop)


class Roofline:
    """The memory traffic of a step of Adam over one array: 4 reads, 3 writes, 3 additions.

    All else is that of the step: where the arrays lie, how they are cut into parts, and whether
    threads run beside the caller's. So the quotient of the two times is what the arithmetic, the
    validation and the call cost on top of the memory.

    Attributes
    ----------
    arrays : tuple of numpy.ndarray
        p, g, m and v; each of the others has g added to it by a call.
    """

    def __init__(self, n, dtype=np.float32):
        optimizer = numadam.Adam(p := values(n, dtype))
        state = optimizer.state
        self.arrays = p, values(n, dtype, 1), state["m"], state["v"]
        addresses = [array.ctypes.data for array in self.arrays]
        part = part_size(n)
        self._table = np.array([*addresses, n, part], np.int64)
        self._table_at = self._table.ctypes.data
        self._run = _stream(p.dtype, process.wants_parallel(n))

    def __call__(self):
        self._run(self._table_at)


@numba.njit
def rosen(x, g):
    """F and gradient of Rosenbrock's valley in two dimensions."""
    a, b = x[1] - x[0] * x[0], 1.0 - x[0]
    g[0] = -400.0 * a * x[0] - 2.0 * b
    g[1] = 200.0 * a
    return 100.0 * a * a + b * b


def minimize(iterations, **options):
    """So many iterations of the compiled loop; its test is looked at and never holds."""
    tests = {"gtol": 1e-300, "ftol": 0, "xtol": 0, "history": False}
    given = {"lr": VALLEY_LR, "maxiter": iterations, **tests, **options}
    return functools.partial(numadam.minimize, rosen, START, **given)


def numpy_loop(iterations, fun=rosen, start=START):
    """The usual ten lines of NumPy around an objective that fills a gradient. No stop tests."""
    shape = np.shape(start)

    def run():
        x, g, m, v = np.array(start), np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for t in range(1, iterations + 1):
            fun(x, g)
            m = 0.9 * m + (1 - 0.9) * g
            v = 0.999 * v + (1 - 0.999) * g * g
            x -= VALLEY_LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return x

    return run

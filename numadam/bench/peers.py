"""Sides of the benchmarks: a step of numadam, its memory traffic alone, and its peers."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, cast

import numba
import numpy as np
from numba import carray, njit, prange

import numadam
from numadam._core.parts import parts_of
from numadam._jit import loops
from numadam._jit.pointers import as_pointer
from numadam.bench.measure import Side

#: Learning rates of a step, and in Rosenbrock's valley; its start.
STEP_LR, VALLEY_LR, START = 1e-3, 0.01, (-1.2, 1.0)


class Unavailable(Exception):
    """A side cannot run here; the text says why."""


def need(*modules: str) -> None:
    """Refuse where a module is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Unavailable(f"{module} is not installed")


def values(n: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Values like gradients: never denormal, the same at each run."""
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def step(n: int, dtype: Any = np.float32, rule: str = "Adam", **options: Any) -> Side:
    """One step of numadam on one array."""
    optimizer = getattr(numadam, rule)(values(n, dtype), lr=STEP_LR, **options)
    return functools.partial(optimizer.step, values(n, dtype, 1))


@functools.cache
def _stream(dtype: np.dtype[Any], parallel: bool) -> Callable[..., None]:
    """A loop that adds one array to three others, part by part; a table has their addresses."""
    each, item = prange if parallel else range, dtype.itemsize

    def loop(table_at: int) -> None:
        table = carray(as_pointer(table_at), 6, np.int64)
        total, size = table[4], table[5]
        for part in each((total + size - 1) // size):
            n, first = min(size, total - part * size), part * size * item
            p = carray(as_pointer(table[0] + first), n, dtype)
            g = carray(as_pointer(table[1] + first), n, dtype)
            m = carray(as_pointer(table[2] + first), n, dtype)
            v = carray(as_pointer(table[3] + first), n, dtype)
            for i in range(n):
                x = g[i]
                p[i], m[i], v[i] = p[i] + x, m[i] + x, v[i] + x

    return njit(parallel=parallel, error_model="numpy")(loop)  # type: ignore[no-any-return]  # untyped


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

    def __init__(self, n: int, dtype: Any = np.float32) -> None:
        optimizer = numadam.Adam(p := values(n, dtype))
        state, backend = optimizer.state, cast("Any", parts_of(optimizer).backend)
        self.arrays: tuple[Any, ...] = p, values(n, dtype, 1), state["m"], state["v"]
        addresses = [array.ctypes.data for array in self.arrays]
        part = backend.arguments.meta["part"][0]
        self._table = np.array([*addresses, n, part], np.int64)
        self._table_at = self._table.ctypes.data
        self._run = _stream(p.dtype, loops.wants_parallel(n))

    def __call__(self) -> None:
        self._run(self._table_at)


def numpy_adam(n: int, dtype: Any = np.float32) -> Side:
    """Adam as users write it, in ten lines of NumPy."""
    p, g = values(n, dtype), values(n, dtype, 1)
    m, v = np.zeros_like(p), np.zeros_like(p)
    t, lr, beta1, beta2, eps = 0, STEP_LR, 0.9, 0.999, 1e-8

    def update() -> None:
        nonlocal t, p, m, v
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        mhat = m / (1 - beta1**t)
        vhat = v / (1 - beta2**t)
        p -= lr * mhat / (np.sqrt(vhat) + eps)

    return update


def tensors(sizes: Sequence[int]) -> list[Any]:
    """Parameters of torch with gradients; torch runs in as many threads as Numba."""
    need("torch")
    import torch

    loops.layer()  # asking Numba for the number of threads makes it choose a layer
    torch.set_num_threads(numba.get_num_threads())
    made = [torch.from_numpy(values(n)).requires_grad_() for n in sizes]
    for tensor in made:
        tensor.grad = torch.from_numpy(values(tensor.numel(), seed=1))
    return made


def torch_fused(*sizes: int) -> Side:
    """``torch.optim.Adam(fused=True)``, the fastest that torch has."""
    params = tensors(sizes)
    import torch

    return torch.optim.Adam(params, lr=STEP_LR, fused=True).step  # type: ignore[no-any-return]  # untyped peer


def optax_adam(n: int) -> Side:
    """``optax.adam`` compiled by JAX, which may reuse the memory of parameters and state."""
    need("jax", "optax")
    import jax
    import optax

    optimizer = optax.adam(STEP_LR)

    def update(p: Any, state: Any, g: Any) -> Any:
        updates, state = optimizer.update(g, state, p)
        return optax.apply_updates(p, updates), state

    run = jax.jit(update, donate_argnums=(0, 1))
    p, g = jax.numpy.asarray(values(n)), jax.numpy.asarray(values(n, seed=1))
    state = optimizer.init(p)

    def step() -> None:
        nonlocal p, state
        p, state = run(p, state, g)
        jax.block_until_ready((p, state))

    return step


@numba.njit
def rosen(x, g):  # type: ignore[no-untyped-def]  # Numba types it
    """F and gradient of Rosenbrock's valley in two dimensions."""
    a, b = x[1] - x[0] * x[0], 1.0 - x[0]
    g[0] = -400.0 * a * x[0] - 2.0 * b
    g[1] = 200.0 * a
    return 100.0 * a * a + b * b


def minimize(iterations: int, **options: Any) -> Side:
    """So many iterations of the compiled loop; its test is looked at and never holds."""
    tests = {"gtol": 1e-300, "ftol": 0, "xtol": 0, "history": False}
    given = {"lr": VALLEY_LR, "maxiter": iterations, **tests, **options}
    return functools.partial(numadam.minimize, rosen, START, **given)


def numpy_loop(iterations: int, fun: Any = rosen, start: Sequence[float] = START) -> Side:
    """The usual ten lines of NumPy around an objective that fills a gradient. No stop tests."""
    shape = np.shape(start)

    def run() -> np.ndarray:
        x, g, m, v = np.array(start), np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for t in range(1, iterations + 1):
            fun(x, g)
            m = 0.9 * m + (1 - 0.9) * g
            v = 0.999 * v + (1 - 0.999) * g * g
            x -= VALLEY_LR * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return x

    return run

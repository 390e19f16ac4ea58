"""Sides of the benchmarks: a step of numadam, and its peers."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

import numadam
from numadam._bench.measure import Side, timed
from numadam._jit import process

STEP_LR = 1e-3


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


def adam_loop(p, g, m, v, lr, beta1, alpha1, beta2, alpha2, eps):  # type: ignore[no-untyped-def]  # as users write it
    """Six lines, as a user of Numba writes them: float32 scalars as arguments, and locals."""
    for i in numba.prange(p.size):
        m_i = beta1 * m[i] + alpha1 * g[i]
        v_i = beta2 * v[i] + alpha2 * g[i] * g[i]
        m[i] = m_i
        v[i] = v_i
        p[i] -= lr * m_i / (math.sqrt(v_i) + eps)


@functools.cache
def _compiled(loop: Callable[..., None], parallel: bool) -> Callable[..., None]:
    compiled: Callable[..., None] = numba.njit(parallel=parallel)(loop)
    return compiled


def numba_loop(loop: Callable[..., None], n: int, arrays: int, *more: float) -> Side:
    """Steps of a loop over p, g, m, v and further arrays; `more` are its last scalars.

    Serial, or in Numba's threads: the one that is faster here.
    """
    given = [values(n), values(n, seed=1), np.zeros(n, np.float32), np.zeros(n, np.float32)]
    given += [values(n) for _ in range(arrays - 4)]
    beta1, beta2, lr, eps, t = 0.9, 0.999, STEP_LR, 1e-8, 0
    fixed = [np.float32(x) for x in (beta1, 1 - beta1, beta2, 1 - beta2)]
    last = [np.float32(x) for x in more]

    def side(run: Callable[..., None]) -> Side:
        def update() -> None:
            nonlocal t
            t += 1
            root = math.sqrt(1 - beta2**t)
            rate = np.float32(lr * root / (1 - beta1**t))
            run(*given, rate, *fixed, np.float32(eps * root), *last)

        update()  # compiles
        return update

    sides = [side(_compiled(loop, parallel)) for parallel in (False, True)]
    count = max(1, 100_000 // n)
    return min(sides, key=lambda side: min(timed(side, count) for _ in range(5)))


def numba_adam(n: int) -> Side:
    """The six lines over n elements."""
    return numba_loop(adam_loop, n, 4)


def tensors(sizes: Sequence[int]) -> list[Any]:
    """Parameters of torch with gradients; torch runs in as many threads as Numba."""
    need("torch")
    import torch

    process.layer()  # asking Numba for the number of threads makes it choose a layer
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

"""Sides of the benchmarks: a step of numadam, and its peers."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

import numadam
from numadam import nopython
from numadam._core.parts import parts_of
from numadam._jit import threads
from numadam.bench.measure import Side
from numadam.bench.roofline import Roofline

#: How a module is called by people.
TITLES = {"torch": "torch", "deepspeed": "DeepSpeed"}
_LR = 1e-3


class Unavailable(Exception):
    """A case cannot run here; the text says why."""


def need(*modules: str) -> None:
    """Refuse where a module is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise Unavailable(f"{TITLES.get(module, module)} is not installed")


def values(n: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Values like gradients: never denormal, the same at each run."""
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def step(n: int, dtype: Any = np.float32) -> Side:
    """One step of numadam on one array."""
    params, grads = values(n, dtype), values(n, dtype, 1)
    return functools.partial(numadam.Adam(params, lr=_LR).step, grads)


def bare(n: int, kind: str) -> Side:
    """One `adam_update` on float64 arrays, as a user's own class calls it.

    `kind` is "plain", or what it is with: "like", "out", or "nopython" for that of compiled code.
    """
    p, g = values(n, np.float64), values(n, np.float64, 1)
    m, v, out, t = np.zeros_like(p), np.zeros_like(p), np.empty_like(p), 0
    update, compiled = numadam.adam_update, nopython.adam_update

    # written out: keywords from a dictionary would take longer than a user's
    def plain() -> None:
        nonlocal t
        t += 1
        update(p, g, m, v, t, lr=_LR)

    def like() -> None:
        nonlocal t
        t += 1
        update(p, g, m, v, t, lr=_LR, like="torch")

    def to_out() -> None:
        nonlocal t
        t += 1
        update(p, g, m, v, t, lr=_LR, out=out)

    def from_python() -> None:
        nonlocal t
        t += 1
        compiled(p, g, m, v, t, lr=_LR)

    return {"plain": plain, "like": like, "out": to_out, "nopython": from_python}[kind]


def step_with(n: int, name: str) -> Side:
    """One step of numadam on one float64 array, with "out", "params" or "" of the call."""
    params, grads = values(n, np.float64), values(n, np.float64, 1)
    optimizer, other = numadam.Adam(params, lr=_LR), params.copy()
    return {
        "out": lambda: optimizer.step(grads, out=other),
        "params": lambda: optimizer.step(grads, params=other),
        "": lambda: optimizer.step(grads),
    }[name]


def roofline(n: int, dtype: Any = np.float32) -> Side:
    """The memory traffic of a step and no more."""
    return Roofline(values(n, dtype), values(n, dtype, 1))


def numpy_adam(n: int, dtype: Any = np.float32) -> Side:
    """Adam as users write it, in ten lines of NumPy."""
    p, g = values(n, dtype), values(n, dtype, 1)
    m, v = np.zeros_like(p), np.zeros_like(p)
    t, lr, beta1, beta2, eps = 0, _LR, 0.9, 0.999, 1e-8

    def update() -> None:
        nonlocal t, p, m, v
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        mhat = m / (1 - beta1**t)
        vhat = v / (1 - beta2**t)
        p -= lr * mhat / (np.sqrt(vhat) + eps)

    return update


def _tensors(sizes: Sequence[int]) -> list[Any]:
    import torch

    threads.layer()  # asking Numba for the number of threads makes it choose a layer
    torch.set_num_threads(numba.get_num_threads())
    tensors = []
    for n in sizes:
        tensor = torch.from_numpy(values(n)).requires_grad_()
        tensor.grad = torch.from_numpy(values(n, seed=1))
        tensors.append(tensor)
    return tensors


def torch_fused(*sizes: int) -> Side:
    """``torch.optim.Adam(fused=True)``, the fastest that torch has."""
    need("torch")
    import torch

    return torch.optim.Adam(_tensors(sizes), lr=_LR, fused=True).step  # type: ignore[no-any-return]  # untyped peer


def optax_adam(n: int) -> Side:
    """``optax.adam`` compiled by JAX, which may reuse the memory of parameters and state."""
    need("jax", "optax")
    import jax
    import optax

    optimizer = optax.adam(_LR)

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


def deepspeed_adam(n: int) -> Side:
    """DeepSpeed's CPUAdam, which is built when it is first used."""
    need("torch", "deepspeed")
    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer = DeepSpeedCPUAdam(_tensors([n]), lr=_LR, adamw_mode=False)
    except Exception as error:  # a compiler or ninja is missing: many kinds of error
        reason = str(error).strip().split("\n")[0]
        raise Unavailable(f"DeepSpeed's CPUAdam does not build here: {reason}") from error
    return optimizer.step  # type: ignore[no-any-return]  # untyped peer


def many(count: int, size: int, kind: str) -> Side:
    """One step over many arrays in a list.

    Parameters
    ----------
    count, size : int
        Number of arrays, and of elements in each.
    kind : {"checked", "same", "grads"}
        Each step gets other array objects than the last, the same ones, or none: `opt.grads`.
    """
    params = [values(size, seed=k) for k in range(count)]
    grads = [values(size, seed=k + 1) for k in range(count)]
    optimizer = numadam.Adam(params, lr=_LR)
    if kind == "same":
        return functools.partial(optimizer.step, grads)
    if kind == "grads":
        optimizer.grads = grads
        return optimizer.step
    # made beforehand: what it costs to make them is the caller's
    rounds = itertools.cycle([[g[:] for g in grads] for _ in range(4)])
    return lambda: optimizer.step(next(rounds))


def serially(optimizer: numadam.Adam) -> numadam.Adam:
    """Make an optimiser use its serial loop, whatever its size."""
    backend: Any = parts_of(optimizer).backend
    run = backend.compiled
    run.kernel = run.serial
    return optimizer


def matmuls(n_in: int, n_out: int, serial: bool) -> Side:
    """A layer's forward and backward product for a batch of 128, and a step of its weights."""
    x, w = values(128 * n_in).reshape(128, n_in), values(n_in * n_out).reshape(n_in, n_out)
    y, g = np.empty((128, n_out), np.float32), np.empty_like(w)
    optimizer = numadam.Adam(w, lr=0.0)  # the weights stay, so that every round is alike
    if serial:
        serially(optimizer)

    def layer() -> None:
        np.matmul(x, w, out=y)
        np.matmul(x.T, y, out=g)
        optimizer.step(g)

    return layer

"""Sides of the cases about options: a step with an option, and the peer it is compared with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import numadam
from numadam._core import plan
from numadam._core.parts import parts_of
from numadam.bench import processes
from numadam.bench.measure import Figure, Side
from numadam.bench.peers import _LR, _tensors, need, values

_CLIP, _EMA = 1.0, 0.999


def _make(rule: str, n: int, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """An optimiser of about n real numbers, and a gradient for it.

    A callable option is called with n. The option "dtype" is that of the parameters.
    """
    given = {key: value(n) if callable(value) else value for key, value in options.items()}
    dtype = np.dtype(given.pop("dtype", np.float32))
    count = n // 2 if dtype.kind == "c" else n

    def numbers(seed: int) -> np.ndarray:
        reals = values(n, np.float32, seed)
        return reals.view(dtype)[:count] if dtype.kind == "c" else reals.astype(dtype)

    optimizer = getattr(numadam, rule)(numbers(0), **{"lr": _LR, **given})
    return optimizer, numbers(1)


def bfloat16(n: int) -> Any:
    """The dtype, which NumPy has from another package."""
    import ml_dtypes

    return ml_dtypes.bfloat16


def box(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds for each element, a few of which are active."""
    return np.full(n, -3.0, np.float32), np.full(n, 3.0, np.float32)


def rates(n: int) -> np.ndarray:
    """A step size for each element."""
    return np.full(n, _LR, np.float32)


def call_after(optimizer: Any, grads: Any, calls: int) -> Side:
    """The call of `step` after `calls` others whose gradients have been added up."""
    backend: Any = parts_of(optimizer).backend
    meta = backend.arguments.meta

    def step() -> None:
        meta["calls"] = calls
        optimizer.step(grads)

    return step


def traffic(optimizer: Any, adds: bool = False) -> int:
    """Bytes that a step moves to and from memory, from the arrays that it has.

    With `adds` those of a call that only adds its gradient to the sum.
    """
    _, settings, backend, _ = parts_of(optimizer)
    its = settings.plan

    def size(slot: int) -> int:
        return int(its.stride(slot)) if its.has(slot) else 0

    if adds:
        each = size(plan.G) + 2 * size(plan.SUM)
    else:
        value = plan.MASTER if its.master else plan.P  # where the parameter is read
        seen = size(plan.G) + size(plan.SUM)
        box = size(plan.LOW) + size(plan.HIGH)
        kept = (plan.S0, plan.S1, plan.S2, plan.AVERAGE)
        each = size(value) + seen + box + size(plan.RATE) + 2 * sum(map(size, kept))
        each += size(plan.P) + size(plan.MASTER)  # written
        if its.norm:
            each += seen + box + (size(value) if its.bounds else 0)
    turns: int = its.unit * sum(param.size for param in backend.params)
    return each * turns


def option(n: int, rule: str, options: Mapping[str, Any], adds: bool = False) -> tuple[Side, int]:
    """A step with these options over n numbers, and the bytes that it moves.

    Where gradients are added up it is the call that takes a step, or with `adds` one before.
    """
    optimizer, grads = _make(rule, n, options)
    step: Side = functools.partial(optimizer.step, grads)
    if optimizer.accumulate > 1:
        step = call_after(optimizer, grads, 1 if adds else optimizer.accumulate - 1)
    return step, traffic(optimizer, adds)


def usual(n: int) -> Side:
    """AdamW with a clip by the global norm and an average, as networks are trained."""
    return option(n, "AdamW", {"clip_norm": _CLIP, "ema": _EMA})[0]


def torch_usual(n: int) -> Side:
    """The same in torch: a clip of the gradients in place, a fused step, and a lerp."""
    need("torch")
    import torch

    (tensor,) = _tensors([n])
    optimizer = torch.optim.AdamW([tensor], lr=_LR, fused=True)
    average = tensor.detach().clone()
    clip = torch.nn.utils.clip_grad_norm_

    def step() -> None:
        clip([tensor], _CLIP)
        optimizer.step()
        with torch.no_grad():
            average.lerp_(tensor, 1.0 - _EMA)

    return step


def idle(n: int, steps: int = 5000) -> Side:
    """A step with zero gradients after as many of them, when the moments have decayed."""
    optimizer, grads = _make("Adam", n, {})
    zeros = np.zeros_like(grads)
    for k in range(10 + steps):
        optimizer.step(grads if k < 10 else zeros)
    return functools.partial(optimizer.step, zeros)


def embedding(rows: int, width: int, share: float) -> tuple[Side, Side]:
    """A lazy step that touches a share of the rows, and the dense step of all."""
    from numadam._arrays.sparse import Rows

    rng = np.random.default_rng(0)
    touched = np.sort(rng.choice(rows, round(share * rows), replace=False))
    lazy = numadam.Adam(values(rows * width).reshape(rows, width), lr=_LR, sparse="lazy")
    some = Rows(touched, values(len(touched) * width, seed=1).reshape(-1, width))
    dense = numadam.Adam(values(rows * width).reshape(rows, width), lr=_LR)
    every = values(rows * width, seed=1).reshape(rows, width)
    return functools.partial(lazy.step, some), functools.partial(dense.step, every)


def accumulating(n: int, every: int) -> Callable[[int], Figure]:
    """Peak memory that `accumulate` adds, in arrays of the size of the parameters."""
    params, grads = values(n), values(n, seed=1)

    def work(count: int) -> Side:
        def run() -> None:
            optimizer = numadam.Adam(params, accumulate=count)
            for _ in range(2 * every):
                optimizer.step(grads)

        return run

    for count in (1, every):
        work(count)()  # compiles or loads: that takes memory, too

    def measure(pairs: int) -> Figure:
        extra = processes.peak(work(every)) - processes.peak(work(1))
        return Figure(extra / params.nbytes)

    return measure

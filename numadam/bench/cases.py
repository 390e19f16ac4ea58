"""Cases with a target: a step of numadam against its peers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import import_module

import numpy as np

from numadam.bench import peers, processes
from numadam.bench.case import Case, Prepare, pair
from numadam.bench.cli import TABLES
from numadam.bench.measure import Side

_SIZES = {"50M": 50_000_000, "10M": 10_000_000, "1M": 1_000_000, "100k": 100_000, "1000": 1_000}


def _steps(
    name: str,
    peer: Callable[[int], Side],
    title: str,
    targets: Mapping[str, float],
    needs: tuple[str, ...] = (),
) -> list[Case]:
    """Steps of one array against a peer; `targets` by size."""
    return [
        Case(
            f"{name}-{size}",
            f"a step of {size} / {title}",
            target,
            pair(functools.partial(peers.step, n), functools.partial(peer, n)),
            needs=needs,
            memory=8.0 if n == _SIZES["50M"] else 0.0,
            quick=n != _SIZES["50M"],
        )
        for size, target in targets.items()
        for n in [_SIZES[size]]
    ]


def _many(kind: str, what: str, target: float) -> Case:
    ours = functools.partial(peers.many, 1000, 1000, kind)
    theirs = functools.partial(peers.torch_fused, *[1000] * 1000)
    title = f"1000 arrays of 1000, {what} / torch fused"
    return Case(f"many-{kind}", title, target, pair(ours, theirs), needs=_TORCH)


def _matmuls(size: str, n_in: int, n_out: int) -> Case:
    parallel, serial = (
        functools.partial(peers.matmuls, n_in, n_out, serial=serial) for serial in (False, True)
    )
    title = f"two matmuls + a step of {size} / the same, step serial"
    return Case(f"matmul-{size}", title, 1.1, pair(parallel, serial))


def _memory(name: str, what: str, target: float, side: Callable[[], Side]) -> Case:
    peak = "peak" in name
    return Case(f"memory-{name}", what, target, lambda: processes.memory(side(), peak), unit="B")


def _seconds(name: str, what: str, target: float, prepare: Prepare) -> Case:
    return Case(name, what, target, prepare, unit="s")


_ONE = functools.partial(peers.step, 100_000)
_THOUSAND = functools.partial(peers.many, 1000, 1000, "same")
_TORCH = ("torch",)
_TO_TORCH = {"50M": 1.0, "10M": 1.0, "1M": 0.65, "100k": 0.35, "1000": 0.06}

CASES = (
    *_steps("roofline", peers.roofline, "4R3W roofline", {"50M": 1.05, "10M": 1.05}),
    Case(
        "roofline-10M-float64",
        "a step of 10M float64 / its roofline",
        1.1,
        pair(
            functools.partial(peers.step, _SIZES["10M"], np.float64),
            functools.partial(peers.roofline, _SIZES["10M"], np.float64),
        ),
    ),
    *_steps("torch", peers.torch_fused, "torch fused", _TO_TORCH, needs=_TORCH),
    *_steps(
        "deepspeed",
        peers.deepspeed_adam,
        "DeepSpeed CPUAdam",
        {"1M": 0.8, "100k": 0.8},
        needs=("torch", "deepspeed"),
    ),
    *_steps("numpy", peers.numpy_adam, "ten-line NumPy Adam", {"1000": 0.2}),
    _many("checked", "other objects each step", 0.15),
    _many("same", "the same objects", 0.08),
    _many("grads", "opt.grads", 0.06),
    _matmuls("50k", 784, 64),
    _matmuls("1M", 1000, 1000),
    _matmuls("4M", 2000, 2000),
    _memory("net", "bytes that a step leaves behind", 0, _ONE),
    _memory("peak", "bytes that a step has at most", 1000, _ONE),
    _memory("net-many", "the same, 1000 arrays", 0, _THOUSAND),
    _memory("peak-many", "the same, 1000 arrays", 1000, _THOUSAND),
    _seconds(
        "first-step-warm",
        "process start to the end of the first step, warm cache",
        0.6,
        lambda: processes.first_step(cold=False),
    ),
    _seconds(
        "first-step-cold-1000",
        "the same for 1000 elements, cold cache",
        4.0,
        lambda: processes.first_step(cold=True, n=1000),
    ),
    _seconds(
        "first-step-cold-1M",
        "the same for 1M elements: compiles the serial and the parallel loop",
        4.0,
        lambda: processes.first_step(cold=True),
    ),
    _seconds(
        "import",
        "import numadam on top of numpy's import",
        0.1,
        lambda: processes.import_time,
    ),
)


def named(name: str) -> Case:
    """The case of this name, of any table."""
    cases: dict[str, Case] = {
        case.name: case
        for module, table, _ in TABLES.values()
        for case in getattr(import_module(f"numadam.bench.{module}"), table)
    }
    if name not in cases:
        raise ValueError(f"case: there is no {name!r}. Choose from: {', '.join(cases)}.")
    return cases[name]

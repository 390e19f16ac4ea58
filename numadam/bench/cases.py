"""Cases with a target: a step of numadam against its peers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib import import_module

import numpy as np

from numadam.bench import making, option_peers, peers, processes, saving
from numadam.bench.case import Case, Prepare, pair
from numadam.bench.cli import TABLES
from numadam.bench.measure import Side
from numadam.bench.minimize_cases import MINIMIZE_CASES

_SIZES = {
    "50M": 50_000_000,
    "10M": 10_000_000,
    "5M": 5_000_000,
    "1M": 1_000_000,
    "500k": 500_000,
    "100k": 100_000,
    "10k": 10_000,
    "1000": 1_000,
}


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


def _bare(name: str, what: str, kind: str) -> Case:
    """A call of `adam_update` against the lines that it replaces."""
    theirs = functools.partial(peers.numpy_adam, 5, np.float64)
    title = f"{what} of 5 float64 / ten-line NumPy Adam"
    return Case(name, title, 0.3, pair(functools.partial(peers.bare, 5, kind), theirs))


def _step_with(option: str) -> Case:
    """A step with an array of the call against one without."""
    ours, theirs = (functools.partial(peers.step_with, 5, with_) for with_ in (option, ""))
    title = f"a step of 5 float64 with {option}= / without"
    return Case(f"step-{option}-5", title, 1.8, pair(ours, theirs))


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


def _under_workqueue(size: str, target: float) -> Case:
    """A step against torch where Numba has no threading layer that is safe."""
    return Case(
        f"workqueue-{size}",
        f"a step of {size} under Numba's workqueue layer / torch fused",
        target,
        lambda: processes.under_layer("workqueue", f"torch-{size}"),
        needs=_TORCH,
    )


def _save(size: str, n: int, memory: float = 0.0) -> Case:
    """A checkpoint against the disk; 1 / 0.7 is the target."""
    title = f"a checkpoint of {size} parameters and two states / writing the bytes, and fsync"
    sides = functools.partial(saving.save, n), functools.partial(saving.plain, n)
    return Case(f"save-{size}", title, 1.43, pair(*sides), memory=memory, quick=not memory)


def _usual(n: int) -> Prepare:
    return pair(
        functools.partial(option_peers.usual, n), functools.partial(option_peers.torch_usual, n)
    )


def _snapshots(targets: Mapping[str, float]) -> list[Case]:
    """Snapshots into kept memory against a plain copy; `targets` by size."""
    return [
        Case(
            f"snapshot-{size}",
            f"opt.snapshot(out=snap) of {size} / numpy.copyto of p, m and v",
            target,
            pair(functools.partial(making.snapshot, n), functools.partial(making.copies, n)),
            memory=4.0 if n == _SIZES["50M"] else 0.0,
            quick=n != _SIZES["50M"],
        )
        for size, target in targets.items()
        for n in [_SIZES[size]]
    ]


def _first_step(name: str, what: str, target: float, cold: bool) -> Case:
    start = f"process start to the end of the first step of 1000 elements, {what} cache"
    title = f"{start} / a process that imports torch and takes a fused step"
    return Case(name, title, target, lambda: processes.first_step(cold, 1000), needs=_TORCH)


_ONE = functools.partial(peers.step, 100_000)
_THOUSAND = functools.partial(peers.many, 1000, 1000, "same")
_TORCH = ("torch",)
_TO_TORCH = {"50M": 1.0, "10M": 1.0, "1M": 0.65, "100k": 0.35, "10k": 0.12, "1000": 0.05}
_TO_ROOFLINE = {"50M": 1.05, "10M": 1.05, "5M": 1.05, "1M": 1.1, "500k": 1.1, "100k": 1.1}
_USUAL = "clip by norm, AdamW and EMA of {} / torch: clip_grad_norm_, fused AdamW, lerp_"

CASES = (
    *_steps("roofline", peers.roofline, "4R3W roofline", _TO_ROOFLINE),
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
    _bare("bare-5", "adam_update", "plain"),
    _bare("bare-like-5", "adam_update with like='torch'", "like"),
    _bare("bare-out-5", "adam_update with out=", "out"),
    _bare("bare-nopython-5", "nopython.adam_update, called from Python,", "nopython"),
    _step_with("out"),
    _step_with("params"),
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
    Case("usual-20M", _USUAL.format("20M"), 0.8, _usual(20_000_000), needs=_TORCH),
    Case("usual-1M", _USUAL.format("1M"), 0.45, _usual(1_000_000), needs=_TORCH),
    Case("usual-10k", _USUAL.format("10k"), 0.15, _usual(10_000), needs=_TORCH),
    _save("1M", 1_000_000),
    _save("100M", 100_000_000, memory=8.0),
    _under_workqueue("10M", 1.0),
    _under_workqueue("1M", 0.8),
    _first_step("first-step-cold-1000", "cold", 1.3, cold=True),
    _first_step("first-step-warm", "warm", 0.25, cold=False),
    _seconds(
        "first-step-cold-1M",
        "process start to the end of the first step of 1M elements, cold cache: the parallel loop",
        4.0,
        lambda: processes.first_step(cold=True, n=1_000_000, against_torch=False),
    ),
    _seconds("make-5", "a second na.Adam(x) of 5 numbers", 60e-6, making.seconds(making.another)),
    _seconds("reset-5", "opt.reset(), 5 numbers", 5e-6, making.seconds(making.reset)),
    *_snapshots({"50M": 1.1, "1M": 1.1}),
    _seconds("set-t-5", "opt.t = 7, 5 numbers", 10e-6, making.seconds(making.set_t)),
    _seconds(
        "set-state-t-5",
        'opt.state["t"] = 7, 5 numbers',
        10e-6,
        making.seconds(making.set_state_t),
    ),
    _seconds(
        "import",
        "import numadam on top of numpy's import",
        0.1,
        lambda: processes.import_time,
    ),
)

#: What a change of the CPU's code is judged by.
TARGETS = (*CASES, *MINIMIZE_CASES)


def named(name: str) -> Case:
    """The case of this name, of any table."""
    cases: dict[str, Case] = {
        case.name: case
        for module, table, _ in TABLES.values()
        for case in getattr(import_module(f"numadam.bench.{module}"), table)
    }
    if name not in cases:
        raise ValueError(f"--case: there is no {name!r}. Choose from: {', '.join(cases)}.")
    return cases[name]

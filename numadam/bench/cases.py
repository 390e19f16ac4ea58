"""Cases with a target: a step of numadam against its peers."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from numadam.bench import peers, processes
from numadam.bench.case import Case, Prepare, pair
from numadam.bench.measure import Side
from numadam.bench.option_cases import OPTION_CASES


def _roofline(n: int, dtype: type) -> Prepare:
    return pair(
        functools.partial(peers.step, n, dtype), functools.partial(peers.roofline, n, dtype)
    )


def _torch(n: int) -> Prepare:
    return pair(functools.partial(peers.step, n), functools.partial(peers.torch_fused, n))


def _deepspeed(n: int) -> Prepare:
    return pair(functools.partial(peers.step, n), functools.partial(peers.deepspeed_adam, n))


def _many(kind: str) -> Prepare:
    return pair(
        functools.partial(peers.many, 1000, 1000, kind),
        functools.partial(peers.torch_fused, *[1000] * 1000),
    )


def _matmuls(n_in: int, n_out: int) -> Prepare:
    return pair(
        functools.partial(peers.matmuls, n_in, n_out, serial=False),
        functools.partial(peers.matmuls, n_in, n_out, serial=True),
    )


def _memory(side: Callable[[], Side], peak: bool) -> Prepare:
    return lambda: processes.memory(side(), peak)


_ONE = functools.partial(peers.step, 100_000)
_THOUSAND = functools.partial(peers.many, 1000, 1000, "same")
_TORCH = ("torch",)
_DEEPSPEED = ("torch", "deepspeed")
_MATMULS = "two matmuls + a step of {} / the same, step serial"

CASES = (
    Case(
        "roofline-50M",
        "a step of 50M / 4R3W roofline",
        1.05,
        _roofline(50_000_000, np.float32),
        memory=8,
        quick=False,
    ),
    Case("roofline-10M", "a step of 10M / 4R3W roofline", 1.05, _roofline(10_000_000, np.float32)),
    Case(
        "roofline-10M-float64",
        "a step of 10M float64 / its roofline",
        1.1,
        _roofline(10_000_000, np.float64),
    ),
    Case(
        "torch-50M",
        "a step of 50M / torch fused",
        1.0,
        _torch(50_000_000),
        needs=_TORCH,
        memory=8,
        quick=False,
    ),
    Case("torch-10M", "a step of 10M / torch fused", 1.0, _torch(10_000_000), needs=_TORCH),
    Case("torch-1M", "a step of 1M / torch fused", 0.65, _torch(1_000_000), needs=_TORCH),
    Case("torch-100k", "a step of 100k / torch fused", 0.35, _torch(100_000), needs=_TORCH),
    Case("torch-1000", "a step of 1000 / torch fused", 0.06, _torch(1000), needs=_TORCH),
    Case(
        "deepspeed-1M",
        "a step of 1M / DeepSpeed CPUAdam",
        0.8,
        _deepspeed(1_000_000),
        needs=_DEEPSPEED,
    ),
    Case(
        "deepspeed-100k",
        "a step of 100k / DeepSpeed CPUAdam",
        0.8,
        _deepspeed(100_000),
        needs=_DEEPSPEED,
    ),
    Case(
        "numpy-1000",
        "a step of 1000 / ten-line NumPy Adam",
        0.2,
        pair(functools.partial(peers.step, 1000), functools.partial(peers.numpy_adam, 1000)),
    ),
    Case(
        "many-checked",
        "1000 arrays of 1000, other objects each step / torch fused",
        0.15,
        _many("checked"),
        needs=_TORCH,
    ),
    Case(
        "many-same",
        "1000 arrays of 1000, the same objects / torch fused",
        0.08,
        _many("same"),
        needs=_TORCH,
    ),
    Case(
        "many-grads",
        "1000 arrays of 1000, opt.grads / torch fused",
        0.06,
        _many("grads"),
        needs=_TORCH,
    ),
    Case("matmul-50k", _MATMULS.format("50k"), 1.1, _matmuls(784, 64)),
    Case("matmul-1M", _MATMULS.format("1M"), 1.1, _matmuls(1000, 1000)),
    Case("matmul-4M", _MATMULS.format("4M"), 1.1, _matmuls(2000, 2000)),
    Case("memory-net", "bytes that a step leaves behind", 0, _memory(_ONE, False), unit="B"),
    Case("memory-peak", "bytes that a step has at most", 1000, _memory(_ONE, True), unit="B"),
    Case("memory-net-many", "the same, 1000 arrays", 0, _memory(_THOUSAND, False), unit="B"),
    Case("memory-peak-many", "the same, 1000 arrays", 1000, _memory(_THOUSAND, True), unit="B"),
    Case(
        "first-step-warm",
        "process start to the end of the first step, warm cache",
        0.6,
        lambda: processes.first_step(cold=False),
        unit="s",
    ),
    Case(
        "first-step-cold-1000",
        "the same for 1000 elements, cold cache",
        4.0,
        lambda: processes.first_step(cold=True, n=1000),
        unit="s",
    ),
    Case(
        "first-step-cold-1M",
        "the same for 1M elements: compiles the serial and the parallel loop",
        4.0,
        lambda: processes.first_step(cold=True),
        unit="s",
    ),
    Case(
        "import",
        "import numadam on top of numpy's import",
        0.1,
        lambda: processes.import_time,
        unit="s",
    ),
)


def named(name: str) -> Case:
    """The case of this name, of any table."""
    from numadam.bench.gpu_cases import GPU_CASES
    from numadam.bench.minimize_cases import MINIMIZE_CASES

    tables = (CASES, OPTION_CASES, MINIMIZE_CASES, GPU_CASES)
    cases = {case.name: case for table in tables for case in table}
    if name not in cases:
        raise ValueError(f"case: there is no {name!r}. Choose from: {', '.join(cases)}.")
    return cases[name]

"""The cases of ``python -m numadam bench --gpu``: right on the card, and how fast."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from numadam import rules
from numadam.bench import gpu_peers as gp
from numadam.bench.case import Case, Prepare
from numadam.bench.measure import Figure, Side
from numadam.bench.option_cases import OPTIONS, VARIANTS

_LARGE = 2**28
_SMALL = [1_000] * 1_000
#: Bytes of a step over those of a copy, an element.
_BYTES = 28 / 8
#: Largest difference from float64 on the CPU after 100 steps, by dtype.
_BOUNDS = {"float32": 1e-5, "complex64": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
#: Options with which float64 on the CPU computes something else.
_LEFT_OUT = ("accumulate", "like-keras")
_ELEMENTS = 1_000


def _timed(make: Callable[[], Callable[[int], Figure]]) -> Prepare:
    def prepare() -> Callable[[int], Figure]:
        gp.need_gpu()
        return make()

    return prepare


def _right(name: str, rule: str, options: Mapping[str, Any]) -> Case:
    """A case that compares the card with float64 on the CPU."""
    given = {k: v(_ELEMENTS) if callable(v) else v for k, v in options.items() if k != "dtype"}

    def measuring(pairs: int) -> Figure:
        dtype = options.get("dtype", np.float32)
        return Figure(gp.agreement(rule, given, dtype(_ELEMENTS) if callable(dtype) else dtype))

    kind = "bfloat16" if "bfloat16" in name else "float16" if "float16" in name else "float32"
    needs = ("ml_dtypes",) if kind == "bfloat16" else ()
    return Case(
        f"right-{name}",
        f"{rule} with {name}: 100 steps on the card from float64 on the CPU, relative",
        _BOUNDS[kind],
        _timed(lambda: measuring),
        needs=needs,
    )


def _right_cases() -> list[Case]:
    cases = [_right(f"rule-{names[0].lower()}", names[0], {}) for names in rules.TABLE.values()]
    cases += [_right(f"rule-{name}", rule, options) for name, (rule, options) in VARIANTS.items()]
    return cases + [
        _right(name, "Adam", options) for name, options in OPTIONS.items() if name not in _LEFT_OUT
    ]


def _two(ours: Callable[[], Side], theirs: Callable[[], Side], expected: float = 1.0) -> Prepare:
    made: Prepare = gp.against(ours, theirs, expected)
    return made


_USUAL = {"clip_norm": 1.0, "ema": 0.999}
GPU_CASES = (
    Case(
        "gpu-copy",
        "a float32 step of 2^28 elements / a copy on the card, by bytes (0.92 of its bandwidth)",
        1 / 0.92,
        _two(functools.partial(gp.step, _LARGE), functools.partial(gp.copy, _LARGE), _BYTES),
        quick=False,
    ),
    Case(
        "gpu-torch",
        "a float32 step of 2^28 elements / torch, fused",
        1.0,
        _two(functools.partial(gp.step, _LARGE), functools.partial(gp.torch_fused, [_LARGE])),
        needs=("torch",),
        quick=False,
    ),
    Case(
        "gpu-usual",
        "clip by norm, AdamW and EMA of 2^26 / torch: clip_grad_norm_, fused AdamW, lerp",
        0.6,
        _two(
            functools.partial(gp.step, 2**26, "AdamW", **_USUAL),
            functools.partial(gp.torch_usual, 2**26),
        ),
        needs=("torch",),
        quick=False,
    ),
    Case(
        "gpu-host-1",
        "time of the host in a step over one array",
        15e-6,
        _timed(lambda: gp.host_time([1_000])),
        unit="s",
    ),
    Case(
        "gpu-host-1000",
        "time of the host in a step over 1000 arrays that stay",
        40e-6,
        _timed(lambda: gp.host_time(_SMALL)),
        unit="s",
    ),
    Case(
        "gpu-many",
        "1000 arrays of 1000 elements / torch, fused",
        1.0,
        _two(functools.partial(gp.many, _SMALL), functools.partial(gp.torch_fused, _SMALL)),
        needs=("torch",),
    ),
    Case(
        "gpu-replay",
        "a captured step of 1000 elements, replayed",
        5e-6,
        _timed(lambda: gp.replay(1_000)),
        unit="s",
    ),
    Case(
        "gpu-bfloat16",
        "a step of 2^28 elements with bfloat16 state / float32 state",
        0.75,
        _two(
            functools.partial(gp.step, _LARGE, state_dtype="bfloat16"),
            functools.partial(gp.step, _LARGE),
        ),
        needs=("ml_dtypes",),
        quick=False,
    ),
    Case(
        "gpu-problems",
        "minimize_many, 10^6 problems of n=4, 500 iterations / jax.vmap(optax)",
        0.5,
        _two(
            functools.partial(gp.many_problems, 1_000_000, 4, 500),
            functools.partial(gp.jax_problems, 1_000_000, 4, 500),
        ),
        needs=("jax", "optax"),
        quick=False,
    ),
    *_right_cases(),
)

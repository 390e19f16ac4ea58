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
    cases = [_right(f"rule-{rule.lower()}", rule, {}) for rule in rules.CLASSES.values()]
    cases += [_right(f"rule-{name}", rule, options) for name, (rule, options) in VARIANTS.items()]
    return cases + [
        _right(name, "Adam", options) for name, options in OPTIONS.items() if name not in _LEFT_OUT
    ]


def _ratio(
    name: str,
    what: str,
    target: float,
    ours: Callable[[], Side],
    theirs: Callable[[], Side],
    expected: float = 1.0,
    needs: tuple[str, ...] = (),
) -> Case:
    """A case of two sides, too large for ``--quick``."""
    return Case(name, what, target, gp.against(ours, theirs, expected), needs=needs, quick=False)


def _seconds(
    name: str, what: str, target: float, measure: Callable[[], Callable[[int], Figure]]
) -> Case:
    return Case(name, what, target, _timed(measure), unit="s")


_STEP = functools.partial(gp.step, _LARGE)
_TORCH = ("torch",)
GPU_CASES = (
    _ratio(
        "gpu-copy",
        "a float32 step of 2^28 elements / a copy on the card, by bytes (0.92 of its bandwidth)",
        1 / 0.92,
        _STEP,
        lambda: gp.copy(_LARGE),
        expected=_BYTES,
    ),
    _ratio(
        "gpu-torch",
        "a float32 step of 2^28 elements / torch, fused",
        1.0,
        _STEP,
        lambda: gp.torch_fused([_LARGE]),
        needs=_TORCH,
    ),
    _ratio(
        "gpu-usual",
        "clip by norm, AdamW and EMA of 2^26 / torch: clip_grad_norm_, fused AdamW, lerp",
        0.6,
        lambda: gp.step(2**26, "AdamW", clip_norm=1.0, ema=0.999),
        lambda: gp.torch_usual(2**26),
        needs=_TORCH,
    ),
    _seconds(
        "gpu-host-1",
        "time of the host in a step over one array",
        15e-6,
        lambda: gp.host_time([1_000]),
    ),
    _seconds(
        "gpu-host-1000",
        "time of the host in a step over 1000 arrays that stay",
        40e-6,
        lambda: gp.host_time(_SMALL),
    ),
    Case(
        "gpu-many",
        "1000 arrays of 1000 elements / torch, fused",
        1.0,
        gp.against(lambda: gp.many(_SMALL), lambda: gp.torch_fused(_SMALL)),
        needs=_TORCH,
    ),
    _seconds(
        "gpu-replay", "a captured step of 1000 elements, replayed", 5e-6, lambda: gp.replay(1_000)
    ),
    _ratio(
        "gpu-bfloat16",
        "a step of 2^28 elements with bfloat16 state / float32 state",
        0.75,
        lambda: gp.step(_LARGE, state_dtype="bfloat16"),
        _STEP,
        needs=("ml_dtypes",),
    ),
    _ratio(
        "gpu-problems",
        "minimize_many, 10^6 problems of n=4, 500 iterations / jax.vmap(optax)",
        0.5,
        lambda: gp.many_problems(1_000_000, 4, 500),
        lambda: gp.jax_problems(1_000_000, 4, 500),
        needs=("jax", "optax"),
    ),
    *_right_cases(),
)

"""Registers, spills, instructions and bytes of the CUDA kernels; no GPU is needed.

    pip install -e ".[test-cuda]"
    python asv_benchmarks/cuda_code.py

It prints the table of the page on GPUs. Instructions are those of the
machine code, of which a thread with one element runs all but the last two or three; bytes are those
of memory that the plan reads and writes.
"""

import sys
from pathlib import Path

import numpy as np

import numadam as na

sys.path.insert(0, str(Path(__file__).parents[1]))  # of a checkout, which alone has its tests
from tests.cuda.kernel_code import Code

#: By name the class, its options, and the dtype.
PLANS = {
    "SGD": ("SGD", {}, "float32"),
    "Lion": ("Lion", {}, "float32"),
    "Adam": ("Adam", {}, "float32"),
    "AdamW, clip, EMA": (
        *("AdamW", {"weight_decay": 0.01, "clip_norm": 1.0, "ema": 0.999}),
        "float32",
    ),
    "Adam in float64": ("Adam", {}, "float64"),
}
GENERATIONS = [(8, 0), (9, 0), (12, 0)]


def plan_of(name):
    rule, options, dtype = PLANS[name]
    return getattr(na, rule)(np.zeros(3, dtype), **options)._settings.plan


def nbytes(plan):
    """Bytes of memory that a step reads and writes for one element, and its norm before it."""
    from numadam._core.text import Text

    text = Text(plan)
    written = [name for name in text.arrays if name not in ("g", "rate", "low", "high")]
    norm = len(text.norm_arrays) if plan.norm else 0
    return (len(text.arrays) + len(written) + norm) * plan.real.itemsize


def figures(plan, generation):
    """Registers, bytes of spills, and instructions of a step over one array."""
    from numadam._cuda.kernel import make_step

    code = Code.of(make_step(plan, True, False, False), generation)
    registers, _, spilled = code.assembled()
    return registers, spilled, len(code.machine_code())


def rows():
    """The lines of the table."""
    yield "| step of one array | bytes | registers, spills, instructions: 8.0 | 9.0 | 12.0 |"
    yield "|---|---|---|---|---|"
    for name in PLANS:
        plan = plan_of(name)
        cells = (", ".join(map(str, figures(plan, one))) for one in GENERATIONS)
        yield f"| {name} | {nbytes(plan)} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(rows()))

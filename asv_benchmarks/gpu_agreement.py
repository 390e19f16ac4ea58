"""Distance of parameters on a GPU from those on the CPU: a table in Markdown, a row a rule.

    python asv_benchmarks/gpu_agreement.py

On a machine without a card it needs the emulator: `EMU=1 PYTHONPATH=tests/emulator/startup:.`
(tests/emulator/README.md). A number is the largest difference after five steps, in units of the
spacing of the dtype at the largest parameter; the parts of complex numbers likewise.
"""

from __future__ import annotations

import cupy
import numpy as np

import numadam as na
from numadam.rules import classes
from tests.cuda.cuda_cases import draw

DTYPES = ["float64", "float32", "complex128", "complex64"]


def difference(rule: str, dtype: str) -> float:
    """The difference on 1,000 parameters with the rule's defaults, in spacings of the dtype."""
    random = np.random.default_rng(0)
    start, *grads = (draw((1_000,), dtype, random) for _ in range(6))
    left = []
    for xp in (np, cupy):
        p = xp.array(start)
        opt = getattr(na, rule)(p, lr=0.05)
        for g in grads:
            opt.step(xp.asarray(g))
        wide = "complex128" if start.dtype.kind == "c" else "float64"
        left.append(cupy.asnumpy(p).astype(wide))
    on_cpu, on_gpu = left
    return float(abs(on_gpu - on_cpu).max() / abs(on_cpu).max() / np.finfo(dtype).eps)


def main() -> None:
    print(f"| rule | {' | '.join(DTYPES)} |", "|---" * (1 + len(DTYPES)) + "|", sep="\n")
    for rule in classes():
        numbers = [f"{difference(rule, dtype):.1f}" for dtype in DTYPES]
        print(f"| {rule} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main()

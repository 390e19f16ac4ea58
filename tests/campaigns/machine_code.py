"""The machine code of ten kernels, hashed: shows that a change of the source changed none of it.

    python tests/campaigns/machine_code.py > before.txt
    python tests/campaigns/machine_code.py --against before.txt

Only instructions count. Names of symbols, labels and files are left out, and so is the order of
functions. Every kernel is compiled anew, so one run takes a minute or two.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()  # a kernel from the disk has no assembly

sys.path.append(str(Path(__file__).parents[2] / "asv_benchmarks"))
from benchmarks import cuda_code

from numadam._cpu.kernel import compiled_step, validator_address
from numadam._cuda.kernel import make_step
from numadam._cuda.launch import ptx_of

#: By name a rule, its options and dtype.
PLANS = {
    "Adam float32": ("Adam", {}, "float32"),
    "Adam float64": ("Adam", {}, "float64"),
    "AdamW clip ema": ("AdamW", {"weight_decay": 0.01, "clip_norm": 1.0, "ema": 0.9}, "float32"),
    "Adam bounds": ("Adam", {"bounds": (0.0, 1.0), "nonfinite": "skip"}, "float64"),
    "SGD momentum": ("SGD", {"momentum": 0.9, "nesterov": True}, "float32"),
    "NAdam": ("NAdam", {}, "float64"),
    "Lion bfloat16": ("Lion", {"state_dtype": "bfloat16"}, "float32"),
    "Adam accumulate": ("Adam", {"accumulate": 4, "amsgrad": True}, "float32"),
}


def instructions(assembly: str) -> str:
    """A hash of the instructions of each function, without the names of what they refer to."""
    functions: list[list[str]] = [[]]
    for line in assembly.splitlines():
        if re.match(r"[\w$.]+:", line) and not line.startswith(".L"):
            functions.append([])
        elif re.match(r"\t[a-z@%]", line):
            code = re.sub(r"\s*[#/]{1,2}.*", "", line)
            code = re.sub(r"[\w$.]*(?:_ZN|numba|\.L|__|\$L|depot|_param)[\w$.@]*", "NAME", code)
            functions[-1].append(re.sub(r"\bparfor[\w$.@]*", "NAME", code))
    bodies = sorted("\n".join(body) for body in functions if body)
    count = sum(body.count("\n") + 1 for body in bodies)
    return f"{hashlib.sha256(chr(10).join(bodies).encode()).hexdigest()[:16]} {count}"


def kernels() -> dict[str, str]:
    """Instructions of each kernel."""
    found = {}
    validator_address()
    for name, (rule, options, dtype) in PLANS.items():
        steps = compiled_step(cuda_code.plan_of(rule, options, dtype))
        for parallel in (False, True):
            (assembly,) = steps.choose(parallel).inspect_asm().values()
            found[f"{name}, {'parallel' if parallel else 'serial'}"] = instructions(assembly)
    for name in ("Adam float32", "AdamW clip ema"):
        rule, options, dtype = PLANS[name]
        plan = cuda_code.plan_of(rule, options, dtype)
        with cuda_code.pretending(cuda_code.CAPABILITY):
            text, _, _ = ptx_of(make_step, cuda_code.CAPABILITY, plan, True, False, False)
        found[f"{name}, CUDA"] = instructions(text)
    return found


def main() -> int:
    """Print a line a kernel; with ``--against`` compare, and fail where one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="what a run before printed")
    before = parser.parse_args().against
    lines = [f"{name}: {code}" for name, code in kernels().items()]
    print("\n".join(lines))
    if before is None:
        return 0
    old = before.read_text().splitlines()
    changed = [line for line in lines if line not in old]
    print(f"{len(lines) - len(changed)} of {len(lines)} kernels unchanged")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())

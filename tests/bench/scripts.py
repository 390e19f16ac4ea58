"""Programs of `asv_benchmarks`, which is no package, as modules."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load(name):
    path = ROOT / "asv_benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"asv_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Programs and modules of `asv_benchmarks`, which is no package; its arrays have 100 elements."""

import importlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "asv_benchmarks"
LIMIT = ("NUMADAM_BENCH_LIMIT", "100")


def load(name):
    """A module of the folder, such as "speed" or "benchmarks.step"."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    os.environ[LIMIT[0]] = LIMIT[1]
    try:
        return importlib.import_module(name)
    finally:
        del os.environ[LIMIT[0]]

"""Keras itself on each of its back ends, where it is installed, against the same calls of ours.

The runs that `test_golden.py` follows were recorded by the same program (`tests/keras_runs.py`).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden import cases_of, follow
from tests.keras_rows import keras_rows

ROOT = Path(__file__).parents[2]
#: Back ends, and the preset that repeats each.
BACKENDS = {"tensorflow": "keras", "jax": "keras-jax", "torch": "keras-jax"}


def bound(backend, name, row, dtype):
    """Largest distance, relative to the largest |p| so far."""
    eps = float(np.finfo(dtype).eps)
    if backend != "torch":
        return row.float32 * eps if dtype == "float32" else 1e-12 * (row.float32 > 0)
    # On torch Keras has code of its own: b*m + (1-b)*g, decay first, and products of NAdam's
    # momenta another way; norms are float32 for float64 gradients too.
    if dtype == "float32":
        return (40.0 if "Nadam" in name else 8.0) * eps
    return 1e-7 if "clipnorm" in name else 1e-12


#: TensorFlow is no peer of the CI: it brings a gigabyte.
needs_tensorflow = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("keras", "tensorflow"))),
    reason="needs Keras and TensorFlow: pip install keras tensorflow-cpu",
)
LIVE = [
    pytest.param("tensorflow", marks=needs_tensorflow),
    *(pytest.param(name, marks=pytest.mark.peers("keras", name)) for name in ("jax", "torch")),
]


# half a minute on JAX; the recorded runs are of both dtypes
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.sweep), "float64"])
@pytest.mark.parametrize("backend", LIVE)
def test_live_keras(backend, dtype):
    command = [sys.executable, "-m", "tests.keras_runs", backend, dtype]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    like = BACKENDS[backend]
    rows, cases = keras_rows(like), cases_of(like, json.loads(done.stdout))
    assert {case.name for case in cases} == set(rows)
    for case in cases:
        row = rows[case.name]
        apart = follow(case, row.make, row.lr)
        assert apart <= bound(backend, case.name, row, dtype), case.name

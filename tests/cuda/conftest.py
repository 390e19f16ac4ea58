"""Where the CUDA tests run: in Numba's simulator, as PTX, or on a GPU."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# reference.py lies one folder up
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIMULATOR = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
HAS_NUMBA_CUDA = importlib.util.find_spec("numba_cuda") is not None


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in for CuPy, with launches of a few threads: each is a Python thread."""
    if not SIMULATOR or not HAS_NUMBA_CUDA:
        pytest.skip("needs numba-cuda and its simulator: NUMBA_ENABLE_CUDASIM=1")
    import fake_cupy
    import numpy as np
    from numba import cuda

    import numadam.cuda as policy

    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    monkeypatch.setattr(policy, "BLOCK", 4)
    monkeypatch.setattr(policy, "BLOCKS_LEAST", 1)
    monkeypatch.setattr(policy, "BLOCKS_MOST", 3)
    # the simulator has neither of these
    monkeypatch.setattr(cuda, "external_stream", lambda pointer: pointer)
    monkeypatch.setattr(cuda, "as_cuda_array", lambda x, sync: x.view(np.ndarray), raising=False)
    return fake_cupy

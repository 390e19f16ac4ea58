"""Importing numadam: public names, and no library that is not needed."""

import runpy
import subprocess
import sys

import pytest

import numadam as na
from tests.processes import python


def test_import_loads_no_heavy_library() -> None:
    code = "import sys; print([m for m in HEAVY if m in sys.modules])"
    heavy = ["numba", "llvmlite", "cupy", "scipy", "optree", "tqdm", "matplotlib"]
    assert python(code.replace("HEAVY", repr(heavy))) == "[]"


def test_import_loads_little() -> None:
    """Counted from what the interpreter loads by itself."""
    code = "import sys; b = set(sys.modules); import numadam; print(*sorted(set(sys.modules) - b))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "numadam" in loaded, done.stderr
    assert not loaded & {"numpy", "json", "hashlib", "logging", "signal", "tempfile"}


def test_steps_never_import_cupy() -> None:
    code = (
        "train(10); import sys; print([m for m in ('cupy', 'scipy.optimize') if m in sys.modules])"
    )
    assert python(code) == "[]"


def test_only_a_communicator_loads_what_ranks_need() -> None:
    code = "train(10); import sys; print([m for m in sys.modules if '_mpi' in m or 'mpi4' in m])"
    assert python(code) == "[]"
    assert python("import sys; na.mpi.RankError; print('mpi4py' in sys.modules)") == "False"


def test_public_names():
    assert set(na.__all__) >= {"Adam", "RMSprop", "SGD", "adam_update", "sgd_update"}
    assert set(dir(na)) >= set(na.__all__)
    with pytest.raises(AttributeError, match="AdamX"):
        na.AdamX  # noqa: B018


def test_a_python_without_the_interpreter_lock_is_refused(monkeypatch):
    """Free-threaded builds: with PYTHON_GIL=1 they have it."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(ImportError, match=r"^numadam does not support .* PYTHON_GIL=1"):
        runpy.run_path(na.__file__)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True)
    assert runpy.run_path(na.__file__)["__version__"] == na.__version__

"""Names of dtypes that arrays are stored in, and what is refused."""

import re
import sys

import numpy as np
import pytest

from numadam._core import half as storage
from tests.core.conversions import run_python


@pytest.mark.parametrize(
    "given", ["float32", "f4", np.float32, np.dtype("float32", metadata={"a": 1}), "half", float]
)
def test_storages_that_numpy_knows(given):
    dtype = storage.as_storage(given, "dtype")
    assert dtype == np.dtype(given)
    assert dtype.name in storage.STORAGES
    assert not dtype.metadata


def test_spellings_of_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    of_array = np.zeros(1, ml_dtypes.bfloat16).dtype
    for given in ("bfloat16", ml_dtypes.bfloat16, of_array):
        dtype = storage.as_storage(given, "dtype")
        assert dtype == np.dtype(ml_dtypes.bfloat16)
        assert storage.memory_dtype(dtype) == np.uint16
    with pytest.raises(TypeError, match="got float8_e4m3fn"):
        storage.as_storage(ml_dtypes.float8_e4m3fn, "dtype")


@pytest.mark.parametrize(
    ("given", "got"),
    [
        ("int32", "int32"),
        (complex, "complex128"),
        ("bf16", "'bf16'"),
        ("f4,,", "'f4,,'"),
        (None, "None"),
        (3, "3"),
        (np.dtype("float32").newbyteorder(), "float32 of foreign byte order"),
        ([("a", "f4")], "void32"),
    ],
    ids=str,
)
def test_what_is_no_storage(given, got):
    text = f"m_dtype: expected float64, float32, float16 or bfloat16, got {got}"
    with pytest.raises(TypeError, match=re.escape(text)):
        storage.as_storage(given, "m_dtype")


def test_without_ml_dtypes_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"m_dtype: .* pip install ml_dtypes"):
        storage.as_storage("bfloat16", "m_dtype")
    assert storage.as_storage("float16", "m_dtype") == np.float16


def test_ml_dtypes_is_imported_only_when_asked_for():
    code = """
import sys
from numadam._core import half as storage
storage.as_storage("float16", "p")
print("ml_dtypes" in sys.modules)
"""
    assert run_python(code) == "False"

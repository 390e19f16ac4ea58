"""Arrays of other libraries, shown as NumPy or CuPy arrays over the same memory.

torch tensors, Numba's device arrays, JAX arrays, and whatever else speaks DLPack or an array
interface. None of these libraries is imported: an object says by itself where it lies.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import is_cupy_array

#: Libraries whose arrays nobody may write, whatever their memory allows.
_IMMUTABLE = ("jax", "jaxlib", "tensorflow")
_CPU, _CUDA, _CUDA_MANAGED = 1, 2, 13  # of DLPack


def home(x: Any) -> str:
    """The library whose arrays can show an object's memory: "NumPy", "CuPy" or "" for neither."""
    kind = type(x)
    if isinstance(x, (np.ndarray, np.generic)) or is_cupy_array(x):
        return ""  # it needs no other
    if hasattr(kind, "__dlpack_device__"):
        device = int(x.__dlpack_device__()[0])
        return {_CPU: "NumPy", _CUDA: "CuPy", _CUDA_MANAGED: "CuPy"}.get(device, "")
    if hasattr(kind, "__cuda_array_interface__"):
        return "CuPy"
    return "NumPy" if hasattr(x, "__array_interface__") else ""


def is_immutable(x: Any) -> bool:
    """Whether nobody may write to an object: its library, or it itself, says so."""
    library = type(x).__module__.split(".")[0]
    if library in _IMMUTABLE:
        return True
    if library == "torch":  # never; and a tensor with a gradient raises where it is asked
        return False
    shown = getattr(x, "__cuda_array_interface__", None)
    return shown is not None and bool(shown["data"][1])  # CuPy does not look at it


def _plain(x: Any) -> tuple[Any, Any]:
    """What can be shown, and the dtype to show it in where the object's own is not known."""
    if not type(x).__module__.startswith("torch"):
        return x, None
    x = x.detach()  # what follows is no part of what torch differentiates
    torch = sys.modules["torch"]
    if x.dtype != torch.bfloat16:
        return x, None
    import ml_dtypes

    return x.view(torch.uint16), np.dtype(ml_dtypes.bfloat16)


def as_numpy(x: Any) -> Any:
    """An object whose `home` is NumPy as an array over its memory."""
    x, dtype = _plain(x)
    shown = np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)
    return shown if dtype is None else shown.view(dtype)


def as_cupy(x: Any) -> Any:
    """An object whose `home` is CuPy as an array over its memory."""
    from numadam._arrays.gpu import require_gpu

    require_gpu()
    import cupy

    x, dtype = _plain(x)
    shown = cupy.from_dlpack(x) if hasattr(x, "__dlpack__") else cupy.asarray(x)
    return shown if dtype is None else shown.view(dtype)


def as_view(x: Any) -> Any:
    """An array of another library as NumPy's or CuPy's, over the same memory; or x itself."""
    library = home(x)
    if not library:
        return x
    return as_numpy(x) if library == "NumPy" else as_cupy(x)


def as_views(arrays: Sequence[Any], library: str, written: bool) -> list[Any]:
    """The arrays of a library as they are, and views of those that it can show.

    What is to be written and never changes stays what it is: it is refused then, by name.
    """
    show = as_numpy if library == "NumPy" else as_cupy
    return [
        show(x) if home(x) == library and not (written and is_immutable(x)) else x for x in arrays
    ]

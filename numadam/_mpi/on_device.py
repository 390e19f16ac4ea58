"""Sharded parameters that are CuPy arrays: the checks of them and of their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numadam._arrays.interop import as_views
from numadam._cuda import arrays as ca
from numadam._cuda.launch import on_gpu


def check_device_leaves(leaves: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse parameters of other types, dtypes, memory orders and GPUs.

    Raises
    ------
    TypeError, ValueError
        With the name of the array.
    """
    ca.check_params(leaves, names)
    if leaves[0].dtype.name == "bfloat16":
        raise TypeError(
            f"{names[0]}: gradients in bfloat16 are not added up over ranks on a GPU. Use float32 "
            "parameters, and state_dtype='bfloat16' to save memory."
        )
    for leaf, name in zip(leaves, names, strict=True):
        if not leaf.flags.c_contiguous:
            raise ValueError(
                f"{name}: expected an array in C order, of which each rank steps a part. Use "
                "cupy.ascontiguousarray(x), and keep that as your array."
            )
    ca.check_overlap(list(zip(names, leaves, strict=True)), [])


def flat_gradients(
    given: Sequence[Any], titles: Sequence[str], of: Sequence[str], params: Sequence[Any]
) -> list[Any]:
    """Gradients flat, in C order: copies of those that lie otherwise.

    Parameters
    ----------
    given, titles : sequences
        The gradients and what the user calls them.
    of, params : sequences
        The same of the parameters.

    Raises
    ------
    TypeError, ValueError
        Where an array does not fit, with its name.
    """
    import cupy

    dtype, gpu = params[0].dtype, int(params[0].device.id)
    leaves = as_views(given, "CuPy", False, titles.__getitem__)
    for leaf, title, name, param in zip(leaves, titles, of, params, strict=True):
        ca.check_array((title, leaf), name, param.shape, dtype, gpu, written=False)
    written = list(zip(of, params, strict=True))
    ca.check_overlap(written, list(zip(titles, leaves, strict=True)))
    with on_gpu(gpu):
        return [cupy.ascontiguousarray(leaf).reshape(-1) for leaf in leaves]


def zeros(size: int, like: Any) -> Any:
    """A flat array of zeros on the GPU of another."""
    import cupy

    with on_gpu(int(like.device.id)):
        return cupy.zeros(size, like.dtype)

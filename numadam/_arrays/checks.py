"""Checks of arrays in Python, and the texts of their errors."""

from __future__ import annotations

import functools
import math
import numbers
import operator
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.exceptions import TooHardError
from numpy.lib.array_utils import byte_bounds

from numadam._arrays.interop import as_views, home, is_immutable, to_host, units_of

#: dtypes of parameters by name
DTYPES = ("float64", "float32", "complex64", "complex128")

#: Candidates that NumPy tries for a shared element, of which views of one array need about one;
#: and elements of an array up to which they are compared one by one where it found no answer.
MOST_WORK: Any = 10_000  # NumPy's stubs know -1 and 0
MOST_ELEMENTS = 1_048_576
#: The end of a text on masked arrays.
ABOUT_MASK = "got a masked array: which elements count? Use x.filled(0) or x.data."
#: The end of a text on a parameter that must not be written.
_WRITE_ELSEWHERE = ", or out=...: it takes the new numbers of a parameter that stays as it is."
#: The text for a step without gradients.
NO_GRADIENTS = (
    "grads: none were passed, and opt.grads was never filled. Call opt.step(grads), or write into "
    "opt.grads first."
)


def is_masked(x: Any) -> bool:
    """Whether `x` is a masked array, or a list that holds one, without importing numpy.ma."""
    masked = sys.modules.get("numpy.ma")
    if masked is None:
        return False
    if isinstance(x, (list, tuple)):
        kinds = (list, tuple, masked.MaskedArray)  # most of the others are numbers
        return any(isinstance(entry, kinds) and is_masked(entry) for entry in x)
    return isinstance(x, masked.MaskedArray)


def is_numpy(x: Any) -> bool:
    """Whether `x` is an ndarray with NumPy's header and nothing that its numbers do not tell.

    A proxy only claims to be one; a masked array has a mask besides, others a unit.
    """
    kind = type(x)
    if kind is np.ndarray:
        return True
    return issubclass(kind, np.ndarray) and not is_masked(x) and units_of(x) is None


def is_viewable(x: Any, dtype: np.dtype) -> bool:
    """Whether a plain array of this dtype can view the memory of `x`."""
    return is_numpy(x) and x.dtype == dtype


def number_as_array(x: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """A number in place of a 0-d array, of Python or NumPy, as such an array; else `x` itself.

    One that does not fit, complex for real, gives an array of its own dtype.
    """
    is_number = isinstance(x, (float, int, complex, np.generic))
    if shape != () or not is_number or isinstance(x, (bool, np.bool_)):
        return x
    own = np.asarray(x)
    return in_dtype(own, dtype) if np.can_cast(own.dtype, dtype, "same_kind") else own


def in_dtype(array: Any, dtype: np.dtype[Any]) -> Any:
    """An array in another dtype, C-ordered; the same where it is so.

    The program's `numpy.seterr` is about its own arithmetic, not about what is rounded here.
    """
    if array.dtype == dtype:
        return array.astype(dtype, order="C", copy=False)
    with np.errstate(all="ignore"):
        return array.astype(dtype, order="C")


def describe(x: Any, wanted: str = "NumPy or CuPy") -> str:
    """Error text for an object that is not the array that was expected, with advice."""
    kind = got = f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")
    library = "cupy" if wanted == "CuPy" else "numpy"
    if kind.startswith("cupy."):
        advice = "One call works on one device: use cupy.asnumpy(x)."
    elif wanted == "CuPy" and isinstance(x, np.ndarray):
        advice = "One call works on one device: use cupy.asarray(x)."
    elif x is None:
        got, advice = "None", "Pass an array of zeros where there is nothing."
    elif isinstance(x, (numbers.Number, np.generic)):
        kind = "complex" if isinstance(x, (complex, np.complexfloating)) else "float"
        got = f"the number {x!r}, which cannot be updated in place"
        advice = (
            f"Use {library}.array({x}, dtype={kind}), and read it back with {kind}(...). A list of "
            f"numbers is one array: {library}.array(x, dtype={kind})."
        )
    elif units_of(x) is not None:
        advice = about_units(x)
    elif is_masked(x):
        return f"expected a {wanted} array, {ABOUT_MASK}"
    elif is_immutable(x):
        got, advice = f"{kind}, which is read-only", f"Use {library}.array(x){_WRITE_ELSEWHERE}"
    elif hasattr(x, "named_parameters"):  # a network of torch
        advice = "Use {name: p.detach().numpy() for name, p in x.named_parameters()}."
    elif isinstance(x, (str, bytes)):
        got, advice = f"{kind} ({x!r:.40})", "Pass an array of numbers."
    elif callable(x) and not hasattr(x, "__array__"):
        advice = "Pass what it returns, or check the order of arguments."
    elif kind.startswith("torch."):
        got += f" on {x.device}" if hasattr(x, "device") else ""
        use = "x.cuda()" if wanted == "CuPy" else "x.detach().cpu().numpy() for the host's memory"
        advice = f"One call works on one device: Use {use}."
        if wanted != "CuPy" and getattr(x, "is_cpu", False):
            advice = "Use x.detach().numpy(), which has the same memory."
        elif wanted != "NumPy" and getattr(x, "is_cuda", False):
            advice = "Use cupy.asarray(x.detach()), which has the same memory."
    elif wanted != "NumPy" and home(x) == "CuPy":
        advice = "Use cupy.asarray(x), which has the same memory."
    elif isinstance(x, (list, tuple, dict)):
        advice = f"Nest it as the params are, or use {library}.asarray(x)."
    elif kind.startswith("pandas."):  # what numpy.asarray gives may not be written to
        advice = "Use x.to_numpy(copy=True)."
    elif hasattr(x, "__next__"):
        advice = "Use list(x)."
    elif hasattr(x, "__array__") or hasattr(x, "__dlpack__") or isinstance(x, Sequence):
        advice = f"Use {library}.asarray(x)."
    elif hasattr(x, "toarray"):  # a sparse matrix
        advice = "Use x.toarray()."
    else:
        advice = "Pass the array that it holds."
    return f"expected a {wanted} array, got {got}. {advice}"


def about_units(x: Any) -> str:
    """Advice for an array with a unit."""
    plain = "x.magnitude" if hasattr(type(x), "magnitude") else "x.value"
    unit = str(units_of(x)) or "dimensionless"
    return f"Its unit, {unit}, would be lost: pass {plain}, all in units that fit together."


def refuse_more_than_numbers(x: Any, title: str, expected: str = "expected real numbers") -> None:
    """Refuse numbers with a unit or a mask, where a plain array or a number will do."""
    if is_masked(x):
        raise TypeError(f"{title}: {expected}, {ABOUT_MASK}")
    if units_of(x) is not None:
        raise TypeError(f"{title}: {expected}. {about_units(x)}")


#: What an array is passed as, by the character of a dtype that Numba cannot compile.
_REMEDIES = {
    "e": ".astype(numpy.float32)",
    "g": ".astype(numpy.float64)",
    "G": ".astype(numpy.complex128)",
    "O": ".astype(numpy.float64), if it holds numbers",
    "T": ".astype('U')",
    "V": ".view(numpy.uint8)",
}


def refuse_uncompilable(x: Any, title: str) -> None:
    """Refuse what a compiled function cannot take, or would take for something else.

    Numba itself names no argument, or drops units and byte order.
    """
    if isinstance(x, (tuple, list)):
        for entry in x if isinstance(x, tuple) else x[:1]:  # entries of a list are alike
            refuse_uncompilable(entry, title)
        return
    refuse_more_than_numbers(x, title, "expected plain numbers for a compiled function")
    if isinstance(x, (np.ndarray, np.generic)) and (problem := _uncompilable(x.dtype, "")):
        raise TypeError(f"{title}: {problem}")
    if type(x) is int and not -(2**63) <= x < 2**64:
        raise TypeError(f"{title}: {x!s:.20}... is beyond the range of int64. Pass a float.")


def _uncompilable(dtype: np.dtype, field: str) -> str:
    """Why Numba cannot compile code for a dtype, and what to pass; "" where it can."""
    if dtype.names is not None:
        inner = (_uncompilable(dtype[name].base, f"{field}[{name!r}]") for name in dtype.names)
        return next(filter(None, inner), "")
    if dtype.char in _REMEDIES:
        has = f"has the field a{field} of {dtype.name}" if field else f"got {dtype.name}"
        return f"{has}, which Numba does not compile. Pass a{field}{_REMEDIES[dtype.char]}."
    if dtype.isnative:
        return ""
    return (
        f"expected the byte order of this machine, got {name_dtype(dtype)}. "
        "Pass a.astype(a.dtype.newbyteorder('='))."
    )


def name_dtype(dtype: np.dtype) -> str:
    """Name of a dtype, with its byte order where that is not the machine's."""
    return dtype.name if dtype.isnative else f"{dtype.name} of foreign byte order ({dtype.str})"


def bad_dtype(name: str, dtype: np.dtype, wanted: np.dtype, of: str) -> str:
    """Error text for an array whose dtype is not that of the parameters."""
    real_part = dtype.kind == "c" and wanted.kind != "c"
    use = "x.real, if that is what you mean" if real_part else f".astype(numpy.{wanted.name})"
    return f"{name}: expected {name_dtype(wanted)} like {of}, got {name_dtype(dtype)}. Use {use}."


def bad_shape(name: str, shape: tuple[int, ...], wanted: tuple[int, ...], of: str) -> str:
    """Error text for an array whose shape is not that of its parameter."""
    use = f"pass one that was made for {of}"
    if name.startswith("g"):  # grads of an optimiser, g of a function
        use = "numpy.broadcast_to where every element has the same gradient"
    return f"{name}: expected shape {wanted} like {of}, got {shape}. Use .reshape, or {use}."


def unfit(
    array: Any, name: str, dtype: np.dtype, shape: tuple[int, ...], of: str
) -> TypeError | ValueError | None:
    """The error for what is no NumPy array like the parameter `of`; None for one that is."""
    if not is_numpy(array):
        return TypeError(f"{name}: {describe(array, 'NumPy')}")
    if array.dtype != dtype:
        return TypeError(bad_dtype(name, array.dtype, dtype, of))
    return None if array.shape == shape else ValueError(bad_shape(name, array.shape, shape, of))


def as_numpy(array: Any, name: str, dtype: np.dtype, shape: tuple[int, ...], of: str) -> np.ndarray:
    """A plain NumPy array over the memory of what is like the parameter `of`; else the error."""
    (view,) = as_views([number_as_array(array, shape, dtype)], "NumPy", lambda _: name)
    if problem := unfit(view, name, dtype, shape, of):
        raise problem
    return np.ndarray.view(view, dtype, np.ndarray)


@functools.cache
def _is_offered(dtype: np.dtype) -> bool:
    # cached: NumPy takes 3 us to make the name of a dtype
    return dtype.name in DTYPES and dtype.isnative


def common_dtype(arrays: Sequence[Any], names: Sequence[str]) -> np.dtype:
    """The one real dtype of all parameters."""
    if not arrays:
        raise ValueError("params: holds no array, there is nothing to optimise.")
    first: np.dtype = np.dtype(arrays[0].dtype.type)  # the usual spelling of it
    for array, name in zip(arrays, names, strict=True):
        dtype = array.dtype
        if not _is_offered(dtype):
            short = dtype.itemsize == 2 and dtype.kind in "fV"  # float16, and bfloat16 of ml_dtypes
            raise TypeError(
                f"{name}: expected float64, float32, complex64 or complex128, got "
                f"{name_dtype(dtype)}. Use .astype(numpy.float{32 if short else 64})."
            )
        if dtype is not first and dtype != first:
            raise TypeError(
                f"{name}: is {dtype}, but {names[0]} is {first}. One optimiser holds one dtype: "
                f"convert one of them, or make a second optimiser for the {dtype} arrays."
            )
    return first


def check_params(params: Sequence[Any], names: Sequence[str]) -> None:
    """Check type and dtype of NumPy parameters."""
    for array, name in zip(params, names, strict=True):
        if not is_numpy(array):
            raise TypeError(f"{name}: {describe(array, 'NumPy')}")
    common_dtype(params, names)


def overlaps_itself(array: Any) -> bool:
    """Whether two elements may share bytes: a stride does not reach over all shorter axes."""
    if array.flags.c_contiguous or array.flags.f_contiguous:
        return False
    axes = [(abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n != 1]
    reach = array.dtype.itemsize
    for stride, n in sorted(axes):
        if stride < reach:
            return True
        reach += (n - 1) * stride
    return False


def read_only(name: str) -> str:
    """Error text for an array to be written that is read-only."""
    is_parameter = name.startswith("p")
    advice = f"Pass a writable copy{_WRITE_ELSEWHERE if is_parameter else '.'}"
    return f"{name}: is read-only. {advice}"


def same_memory(name: str) -> str:
    """Error text for an array to be written that `overlaps_itself`."""
    return (
        f"{name}: several of its elements lie on the same memory (a broadcast or sliding view). "
        "Pass a copy."
    )


def refuse_same_memory(arrays: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse arrays that need state of their size, which is not that of their memory."""
    for array, name in zip(arrays, names, strict=True):
        if overlaps_itself(array):
            raise ValueError(same_memory(name))


def refuse_negative(arrays: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse state that is a sum of squares and has a number below 0; NaN and inf may be loaded."""
    for array, name in zip(arrays, names, strict=True):
        if has_negative(array):
            raise ValueError(
                f"{name}: expected numbers >= 0, as it holds squares of gradients; got some below "
                "0, whose root would be NaN. Was it saved under another name?"
            )


def refuse_counts(counts: np.ndarray, name: str) -> None:
    """Refuse numbers of steps that rows cannot have taken."""
    if wrong := counts[(counts < 0) | (counts >= 2**53)].tolist():
        raise ValueError(
            f"{name}: expected whole numbers of steps >= 0 and < 2**53, got {wrong[0]}."
        )


def has_negative(array: Any) -> bool:
    """Whether a number is below 0, in either part of complex ones; NaN is not."""
    array = to_host(array)
    if array.dtype.kind == "c":
        array = array.ravel(order="K").view(array.real.dtype)
    return bool(np.fmin.reduce(array, axis=None, initial=0.0) < 0.0)


def memory_order(array: Any) -> tuple[int, ...]:
    """The axes from the longest stride to the shortest: the order of the elements in memory."""
    if array.flags.c_contiguous:
        return tuple(range(array.ndim))
    return tuple(sorted(range(array.ndim), key=lambda k: (-abs(array.strides[k]), k)))


def are_disjoint(spans: Sequence[tuple[int, int]]) -> bool:
    """Whether no two spans of bytes overlap: each ends before the next begins.

    For 1000 spans it takes 0.2 ms.
    """
    lows, highs = map(sorted, zip(*spans, strict=True)) if spans else ([], [])
    return all(map(operator.le, highs, lows[1:]))


def shared_memory(arrays: Sequence[tuple[str, Any]], others: Sequence[tuple[str, Any]]) -> str:
    """Error text for the first two arrays that share an element, one of each list, or "".

    The same list twice means every pair of it.
    """
    bounds = np.array([byte_bounds(array) for _, array in others], np.int64).reshape(-1, 2)
    for k, (name, array) in enumerate(arrays):
        low, high = byte_bounds(array)
        near = np.flatnonzero((bounds[:, 0] < high) & (bounds[:, 1] > low))
        for j in near.tolist():
            if others is arrays and j >= k:
                continue
            other, found = others[j]
            shares = _share_memory(array, found)
            if shares is None:
                return (
                    f"{other} may share memory with {name}: too many of their elements lie "
                    "between one another to tell. Pass a copy of one of them."
                )
            if shares:
                same = (array.ctypes.data, array.strides) == (found.ctypes.data, found.strides)
                return (
                    f"{other} shares memory with {name}: a step would read what it has already "
                    f"changed. {_advice(name, other) if same else 'Pass a copy of one of them.'}"
                )
    return ""


def _share_memory(one: Any, other: Any) -> bool | None:
    """Whether two arrays share a byte; None where that is not known after a second.

    NumPy's search is exponential in the number of axes, and signals wait for it.
    """
    try:
        return np.shares_memory(one, other, max_work=MOST_WORK)
    except TooHardError:
        first, second = _element_addresses(one), _element_addresses(other)
    if first is None or second is None:
        return None
    after = np.searchsorted(first, second)  # for each of `second` the one of `first` behind it
    reach = np.append(first, np.iinfo(np.int64).max) - other.itemsize
    ends = np.append(np.iinfo(np.int64).min, first + one.itemsize)
    return bool(np.any((reach[after] < second) | (ends[after] > second)))


def _element_addresses(array: Any) -> np.ndarray | None:
    """Addresses of the elements of an array, sorted; None where there are very many."""
    axes = [(n, stride) for n, stride in zip(array.shape, array.strides, strict=True) if stride]
    if math.prod(n for n, _ in axes) > MOST_ELEMENTS:
        return None
    found = np.array([array.ctypes.data], np.int64)
    for n, stride in axes:
        found = np.add.outer(found, stride * np.arange(n)).reshape(-1)
    return np.sort(found)


def _advice(name: str, other: str) -> str:
    """Advice where two arrays are one, as the gradient of x^2 / 2 is x."""
    if other.startswith("grads") and name.startswith("params"):
        return "Pass a copy, as in opt.step(x.copy())."
    return f"Pass a copy, as in {name}.copy()."

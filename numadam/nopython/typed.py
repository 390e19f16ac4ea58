"""Type-dependent parts of compiled functions: casts, and flat views of arrays of any layout.

Each has a Python form beside it, so that all runs as plain Python under ``NUMBA_DISABLE_JIT``, for
a debugger. An intrinsic stands where compiled code has no other way: CUDA functions return no new
arrays, and a branch on ``is None`` is pruned only where it is true.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload, register_jitable
from numba.np.numpy_support import as_dtype

from numadam._core.scalars import tiny
from numadam._jit.functions import cast


def _tuple_as(values, like):
    """A tuple of numbers, named or not, in the type of `like`."""
    numbers = [type(like)(value) for value in values]
    return type(values)(*numbers) if hasattr(values, "_fields") else tuple(numbers)


@overload(_tuple_as)
def _compiled_tuple_as(values, like):
    return lambda values, like: cast(values, like)


@register_jitable
def doubles(values: Any) -> Any:
    """A tuple of numbers as float64."""
    return _tuple_as(values, 1.0)


def _compiled_plain(typingctx: Any, values: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0]  # names are in the type alone

    return types.Tuple(list(values))(values), codegen


#: A tuple of numbers without names: Numba's own ``tuple`` keeps them, and adds no named ones.
plain: Any = tuple if config.DISABLE_JIT else intrinsic(_compiled_plain)


def _real(kind: Any, name: str) -> Any:
    """float32 or float64: Numba's type of the numbers in `kind`."""
    found = types.unliteral(getattr(kind, "dtype", kind))
    if found not in (types.float32, types.float64):
        hint = "; write 1.0 in place of 1" if isinstance(found, types.Integer) else ""
        raise TypingError(f"{name}: expected float32 or float64, got {found}{hint}.")
    return found


def complete(h: Any, p: Any) -> Any:
    """The scalars of a step as a formula takes them: of the type of p, with tiny and zero."""
    real = np.asarray(p).dtype
    return _tuple_as((*h, tiny(real), 0.0), real.type(1))


@overload(complete)
def _compiled_complete(h, p):
    real = as_dtype(_real(p, "p"))
    ends, one = (tiny(real), 0.0), real.type(1)
    return lambda h, p: cast(h + ends, one)


def number_as(x: Any, p: Any) -> Any:
    """A number in the type of the number or the array p; None stays."""
    return None if x is None else np.asarray(p).dtype.type(x)


@overload(number_as)
def _compiled_number_as(x, p):
    if isinstance(x, (types.NoneType, types.Omitted)):
        return lambda x, p: None
    one = as_dtype(_real(p, "p")).type(1)
    return lambda x, p: cast((x,), one)[0]


def item(a: Any, i: Any) -> Any:
    """``a[i]``, or None where the array is absent."""
    return None if a is None else a[i]


@overload(item)
def _compiled_item(a, i):
    # by its type: `a is None` is pruned only where it is true, and a number could then be None
    if isinstance(a, types.NoneType):
        return lambda a, i: None
    return lambda a, i: a[i]


def _present(values, given):
    """The values whose place in `given` is not None; the value alone where it is one."""
    left = tuple(x for x, kind in zip(values, given, strict=True) if kind is not None)
    return left if len(left) > 1 else left[0]


def _compiled_present(typingctx: Any, values: Any, given: Any) -> Any:
    absent = (types.NoneType, types.Omitted)
    places = [i for i, kind in enumerate(given.types) if not isinstance(kind, absent)]
    result = types.Tuple([values.types[i] for i in places])
    if len(places) == 1:
        result = result.types[0]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = cgutils.unpack_tuple(builder, args[0])
        left = [items[i] for i in places]
        return left[0] if len(left) == 1 else context.make_tuple(builder, result, left)

    return result(values, given), codegen


present: Any = _present if config.DISABLE_JIT else intrinsic(_compiled_present)


def _check_arrays(kinds: tuple[Any, ...], names: tuple[str, ...]) -> set[str]:
    """The layouts of these arrays, given as Numba's types; refuses what does not fit `p`."""
    if not isinstance(kinds[0], types.Array):
        raise TypingError(
            f"p: expected an array, got {kinds[0]}. For one number there is the function whose "
            "name ends in _element."
        )
    real, axes = _real(kinds[0], "p"), kinds[0].ndim
    layouts = set()
    for kind, name in zip(kinds, names, strict=True):
        if isinstance(kind, (types.NoneType, types.Omitted)):
            continue
        expected = f"{name}: expected an array of {real} with ndim={axes}, as p is, got"
        if not isinstance(kind, types.Array):
            raise TypingError(f"{expected} {kind}.")
        if (kind.dtype, kind.ndim) != (real, axes):
            raise TypingError(f"{expected} one of {kind.dtype} with ndim={kind.ndim}.")
        if name != "g" and not kind.mutable:
            raise TypingError(f"{name}: is read-only, and a step writes into it. Pass a copy.")
        layouts.add(kind.layout)
    return layouts


def _view(context: Any, builder: Any, kind: Any, result: Any, array: Any) -> Any:
    """The array as type `result` has it: flat, or as it is.

    Without its reference count: a loop that counts references is not vectorised. The caller keeps
    the array alive.
    """
    if not isinstance(kind, types.Array):
        return array
    old = cgutils.create_struct_proxy(kind)(context, builder, value=array)
    new = cgutils.create_struct_proxy(result)(context, builder)
    new.nitems, new.itemsize, new.data = old.nitems, old.itemsize, old.data
    if result == kind:
        new.shape, new.strides = old.shape, old.strides
    else:
        new.shape = cgutils.pack_array(builder, [old.nitems])
        new.strides = cgutils.pack_array(builder, [old.itemsize])
    new.meminfo = cgutils.get_null_value(new.meminfo.type)
    new.parent = cgutils.get_null_value(new.parent.type)
    return new._getvalue()


def make_views(names: tuple[str, ...]) -> Any:
    """``views(p, g, s0, s1, s2)``: flat where all are contiguous in one order, else as they are."""

    def plain(p, g, s0, s1, s2):
        return p, g, s0, s1, s2

    def views(typingctx: Any, p: Any, g: Any, s0: Any, s1: Any, s2: Any) -> Any:
        kinds = (p, g, s0, s1, s2)
        flat = _check_arrays(kinds, names) in ({"C"}, {"F"})
        results = [
            kind.copy(ndim=1, layout="C") if flat and isinstance(kind, types.Array) else kind
            for kind in kinds
        ]

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = zip(kinds, results, args, strict=True)
            made = [_view(context, builder, *entry) for entry in found]
            return context.make_tuple(builder, signature.return_type, made)

        return types.Tuple(results)(*kinds), codegen

    return plain if config.DISABLE_JIT else intrinsic(views)

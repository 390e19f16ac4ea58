"""Names of other packages that are not public, each with its reason: no other file has any."""

from __future__ import annotations

# One C call: where an exception comes in `threading.Thread.start`, the thread may hang
from _thread import start_new_thread
from typing import Any

import llvmlite  # its version, on which compiled code depends
from llvmlite.binding import get_host_cpu_name  # as Numba's own cache knows the processor
from numba import types
from numba.extending import intrinsic
from numba.misc.appdirs import user_cache_dir  # the folder in which Numba's own cache is

__all__ = ["LLVMLITE", "PROCESSOR", "USER_CACHE", "pointer", "start_new_thread", "uncounted"]

#: Folder of the user's caches on this platform, which need not be absolute.
USER_CACHE = str(user_cache_dir("numadam", False))
#: What compiled code depends on.
LLVMLITE = str(llvmlite.__version__)
PROCESSOR = str(get_host_cpu_name())


def address(result: Any) -> int:
    """The address of a compiled function, for `numadam._jit.calls`."""
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to numbers as `like`, an array or number, has them; for `carray`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(getattr(like, "dtype", like))(address, like), codegen


def uncounted(context: Any, builder: Any, kind: Any, result: Any, array: Any) -> Any:
    """Code for the array as type `result` has it: flat, or as it is; others stay.

    Without its reference count: a loop that counts references is not vectorised. The caller keeps
    the array alive.
    """
    if not isinstance(kind, types.Array):
        return array
    old = context.make_array(kind)(context, builder, array)
    new = context.make_array(result)(context, builder)
    new.nitems, new.itemsize, new.data = old.nitems, old.itemsize, old.data
    if result == kind:
        new.shape, new.strides = old.shape, old.strides
    else:
        new.shape = builder.insert_value(new.shape, old.nitems, 0)
        new.strides = builder.insert_value(new.strides, old.itemsize, 0)
    new.meminfo, new.parent = new.meminfo.type(None), new.parent.type(None)
    return new._getvalue()

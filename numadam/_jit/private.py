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

__all__ = ["LLVMLITE", "PROCESSOR", "USER_CACHE", "pointer", "start_new_thread"]

#: Folder of the user's caches on this platform, which need not be absolute.
USER_CACHE = str(user_cache_dir("numadam", False))
#: What compiled code depends on.
LLVMLITE = str(llvmlite.__version__)
PROCESSOR = str(get_host_cpu_name())


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to numbers as `like`, an array or number, has them; for `carray`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(getattr(like, "dtype", like))(address, like), codegen

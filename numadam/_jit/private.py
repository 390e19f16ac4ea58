"""Names of other packages that are not public, each with its reason: no other file has any."""

from __future__ import annotations

from typing import Any

import llvmlite  # its version, on which compiled code depends
from numba import types

# What Numba's own cache keeps. Its index and data files may be damaged for ever, are lost where
# processes meet, and 0.4 s of what only compiling needs is loaded before they are read.
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys  # functions that compiled code calls where it takes arrays
from numba.core.serialize import dumps  # types of Numba need its own pickler
from numba.extending import intrinsic
from numba.misc.appdirs import user_cache_dir  # the folder that Numba's own cache has

#: Folder of the user's caches on this platform, which need not be absolute.
USER_CACHE = str(user_cache_dir("numadam", False))
LLVMLITE = str(llvmlite.__version__)


def processor(dispatcher: Any) -> str:
    """What machine code depends on: the platform, the processor and its features."""
    return repr(dispatcher.targetctx.codegen().magic_tuple())


def reduced(result: Any) -> bytes:
    """All of a compiled function, as bytes that `rebuilt` reads."""
    return bytes(dumps(result._reduce()))  # noqa: SLF001


def address(result: Any) -> int:
    """The address of a compiled function, for `numadam._jit.calls`."""
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def rebuilt(dispatcher: Any, parts: Any) -> Any:
    """A compiled function, of what `reduced` was asked to keep."""
    rtsys.initialize(dispatcher.targetctx)
    return CompileResult._rebuild(dispatcher.targetctx, *parts)  # noqa: SLF001


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to numbers as those of `like`, an array or one, for `carray`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(getattr(like, "dtype", like))(address, like), codegen

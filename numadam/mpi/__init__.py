"""Optimisers on the ranks of an MPI program: blocks of one problem, or shared work on one array.

mpi4py itself is imported only when a communicator is passed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from numadam._mpi.ranks import Decomposition, RankError

if TYPE_CHECKING:
    from numadam._mpi.windows import shared_array as shared_array
    from numadam.mpi.sharded import Sharded as Sharded

__all__ = ["Decomposition", "RankError", "Sharded", "shared_array"]

_LAZY = {"Sharded": "numadam.mpi.sharded", "shared_array": "numadam._mpi.windows"}


def __getattr__(name: str) -> Any:
    """Import what needs mpi4py when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'numadam.mpi' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

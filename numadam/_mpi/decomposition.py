"""The part of a big problem that one rank owns."""

from __future__ import annotations

from typing import Any, NoReturn, Self

from numadam._mpi.ranks import Ranks, ranks_of


class Decomposition:
    r"""A big problem in blocks, of which each rank owns one: the option `comm` of an optimiser.

    The parameters of each rank are its block. `clip_norm`, `clip_array_norm` and `nonfinite` are
    those of the whole arrays. Pass the communicator itself where each element of the blocks counts.

    Collective: all ranks of `comm` call it.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A private duplicate is made at its first use, and freed with it.
    owned : bool array, or nesting of bool arrays as that of the parameters, optional
        False at ghost cells, of the shape of the block. They are stepped as all others are, but do
        not count in norms and in the guard; a NaN there does not matter.
    offset : tuple of int, or nesting of such tuples, optional
        Place of the block's first element in the whole array. Checkpoints need it, to be read by
        another number of ranks.

    Attributes
    ----------
    rank, ranks : int
        This process, and how many there are.
    owned, offset
        As they were passed; an array is copied.

    Raises
    ------
    TypeError
        Where `comm` is no communicator of mpi4py.

    Notes
    -----
    Two ranks, a vector of ten elements, and a ghost cell at the cut::

        comm = MPI.COMM_WORLD
        local, owned = np.zeros(6), np.ones(6, bool)
        owned[-1 if comm.rank == 0 else 0] = False
        opt = na.Adam(local, comm=na.mpi.Decomposition(comm, owned), clip_norm=1.0)
    """

    __module__ = "numadam.mpi"

    def __init__(self, comm: Any, owned: Any = None, offset: Any = None) -> None:
        self._ranks = ranks_of(comm)
        self._comm = comm
        self.owned: Any = _own(owned)
        self.offset: Any = offset

    @property
    def comm(self) -> Any:
        """The communicator, as it was passed."""
        return self._comm

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self._ranks.rank

    @property
    def ranks(self) -> int:
        """The number of processes."""
        return self._ranks.size

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        self._ranks.__reduce__()

    def __repr__(self) -> str:
        """The rank, and what else was passed."""
        more = [name for name in ("owned", "offset") if getattr(self, name) is not None]
        return f"rank {self.rank} of {self.ranks}{''.join(f', {name}' for name in more)}"


def _own(owned: Any) -> Any:
    """A copy: what the caller writes into a mask later changes nothing."""
    if isinstance(owned, dict):
        return {key: _own(one) for key, one in owned.items()}
    if type(owned) in (list, tuple):
        return type(owned)(map(_own, owned))
    return owned.copy() if hasattr(owned, "copy") else owned


def decomposition(comm: Any) -> Decomposition:
    """The option `comm` as a `Decomposition`."""
    return comm if isinstance(comm, Decomposition) else Decomposition(comm)


def ranks(comm: Decomposition) -> Ranks:
    """The ranks of a decomposition."""
    return comm._ranks  # noqa: SLF001  # this module's own class

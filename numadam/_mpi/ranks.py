"""Ranks of a communicator: waiting for each other, agreeing, and failing together."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

import numpy as np

from numadam._core.options import COLUMN, own_copy
from numadam._core.parts import Parts

# --- the error of a rank that cannot go on because of another one --------------------------------


class RankError(RuntimeError):
    """Another rank failed, or the arguments of two ranks do not match.

    The message names the rank and says what happened there. The rank that failed raises its own
    error. Nothing was written on any rank.

    Examples
    --------
    All ranks skip a step that raises an error on one of them::

        comm = MPI.COMM_WORLD
        opt = na.Adam(block, clip_norm=1.0, comm=comm)
        try:
            opt.step(gradient(block))
        except (na.mpi.RankError, ValueError) as error:
            print(comm.rank, error)
    """

    __module__ = "numadam.mpi"


# --- ranks of a communicator ---------------------------------------------------------------------
# All collectives here are nonblocking ones: those never match a blocking one of the user's, and a
# rank that has failed can wait for the others with a time limit.

#: Seconds that a failed rank waits for the others, before it ends the whole program.
LEFT_ALONE = 5.0
#: Seconds between two looks at whether they have come.
_LOOK = 0.001
#: Bytes of a message to the other ranks; a longer one is cut.
_MESSAGE = 512

#: The MPI attribute of a communicator that holds its `Ranks`, by type of communicator.
_key: int | None = None


class _OfProcess:
    """An object that belongs to this process: a copy is the same one."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "comm: a communicator cannot be pickled. Write a checkpoint, opt.save(folder), or "
            "pickle params and opt.state.copy()."
        )


class Ranks(_OfProcess):
    """The ranks of a communicator, as `ranks_of` returns them.

    `comm` is a duplicate of the user's, whose messages meet no other ones. `made` has what was made
    of the communicator, by what it was made for.
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, int(comm.rank), int(comm.size)
        self.made: dict[Any, Any] = {}
        self._closing: list[Callable[[], None]] = []

    def on_close(self, close: Callable[[], None]) -> None:
        """Call this, on all ranks, before the communicator is freed."""
        self._closing.append(close)

    def close(self) -> None:
        """Free the communicator, and what was made of it. Collective."""
        for close in self._closing:
            close()
        self.comm.Free()

    def gather(self, words: np.ndarray) -> np.ndarray:
        """The words of every rank, a row for each: as many int64 or float64 of each. Collective."""
        rows = np.empty((self.size, len(words)), words.dtype)
        self._alive().Iallgather(words, rows).Wait()
        return rows

    def share(self, rows: np.ndarray, patience: float | None = None) -> bool:
        """As `gather`, in place: this rank's words are in its row. Collective.

        Returns False where the other ranks have not come within `patience` seconds.
        """
        from mpi4py import MPI

        request = self._alive().Iallgather(MPI.IN_PLACE, rows)
        if patience is None:
            request.Wait()
            return True
        end = time.monotonic() + patience
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(_LOOK)
        return True

    def agree(self, error: BaseException | None, what: str) -> None:
        """Go on where no rank has an error; else raise it there, `RankError` on the others.

        Collective: each rank passes what it has caught, or None. `what` says in a message where it
        happened, e.g. ``"making the optimiser"``.
        """
        self.exchange(np.zeros((self.size, 1), np.int64), error, what)

    def exchange(self, rows: np.ndarray, error: BaseException | None, what: str) -> None:
        """As `agree`; `rows` carry words of each rank behind the one that says if it failed."""
        rows[self.rank, 0] = error is not None
        came = self.share(rows, None if error is None else LEFT_ALONE)
        if error is not None and not came:
            self.abort(f"{what}: the other ranks did not come. {described(error)}")
        if rows[:, 0].any():
            self.tell(error, rows[:, 0] != 0, what)

    @contextmanager
    def all_or_none(self, what: str) -> Iterator[None]:
        """Raise an exception of the block on its rank, and `RankError` on all others. Collective.

        `what` is as in `agree`.
        """
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
        self.agree(error, what)

    def tell(self, error: BaseException | None, failed: np.ndarray, what: str) -> NoReturn:
        """Raise the error of this rank, or `RankError` with the message of the first that failed.

        Collective: all ranks know already which of them failed.
        """
        texts = self.texts("" if error is None else described(error))
        if error is not None:
            raise error
        first = int(np.flatnonzero(failed)[0])
        raise RankError(f"{what}: rank {first} of {self.size} failed. {texts[first]}")

    def texts(self, text: str) -> list[str]:
        """The text of every rank; a long one is cut. Collective."""
        rows = np.zeros((self.size, _MESSAGE), np.uint8)
        # a path that is no UTF-8 has surrogates: an error here would leave the others waiting
        words = text.encode(errors="backslashreplace")[:_MESSAGE]
        rows[self.rank, : len(words)] = np.frombuffer(words, np.uint8)
        self.share(rows)
        return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]

    def abort(self, message: str) -> NoReturn:
        """End the program on all ranks with one message: there is no other way any more."""
        print(f"numadam: rank {self.rank} of {self.size}: {message}", file=sys.stderr, flush=True)
        self.comm.Abort(1)
        raise SystemExit(1)  # not reached: for a communicator that only counts its calls

    def _alive(self) -> Any:
        if not self.comm:
            raise ValueError("comm: was freed. Free it when the optimisers that use it are gone.")
        return self.comm

    def __repr__(self) -> str:
        return f"rank {self.rank} of {self.size}"


def first_unlike(rows: np.ndarray) -> tuple[int, int] | None:
    """The first column in which rows differ, and the first row that differs there from row 0."""
    unlike = rows != rows[0]
    if not unlike.any():
        return None
    column = int(unlike.any(axis=0).argmax())
    return column, int(unlike[:, column].argmax())


def digest(data: bytes) -> int:
    """A word of 8 bytes that tells data from all others."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), signed=True)


def described(error: BaseException) -> str:
    """An error as a message to other ranks, which wait for it whatever it is."""
    try:
        text = str(error)
    except Exception as unsaid:
        text = f"its text raised {type(unsaid).__name__}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def ranks_of(comm: Any) -> Ranks:
    """The ranks of a communicator. Collective at the first call for it, which duplicates it.

    The duplicate is an attribute of the communicator, and is freed with it.
    """
    module = sys.modules.get("mpi4py.MPI")  # whoever has a communicator has loaded it
    if module is not None and isinstance(comm, module.Comm) and comm == module.COMM_NULL:
        raise ValueError("comm: is COMM_NULL: this process is not in it. Leave it out here.")
    if module is None or not isinstance(comm, module.Intracomm):
        raise TypeError(
            "comm: expected a communicator of mpi4py, such as MPI.COMM_WORLD, or a "
            f"numadam.mpi.Decomposition, got {type(comm).__name__}."
        )
    key = _attribute(module)
    known: dict[type[Any], Ranks] | None = comm.Get_attr(key)
    if known is None:
        known = {}
        comm.Set_attr(key, known)
    if type(comm) not in known:  # a subclass, e.g. one that counts its calls, has its own
        duplicate, request = comm.Idup()
        request.Wait()
        known[type(comm)] = Ranks(duplicate)
    return known[type(comm)]


def _attribute(module: Any) -> int:
    """The key of our attribute, made at the first call."""
    global _key
    if _key is None:

        def free(comm: Any, key: int, known: dict[type[Any], Ranks]) -> None:
            # those of the system are deleted when MPI ends, which frees everything by itself
            if comm in (module.COMM_WORLD, module.COMM_SELF):
                return
            for ranks in known.values():
                ranks.close()

        _key = module.Comm.Create_keyval(delete_fn=free)
    return _key


# --- the part of a big problem that one rank owns ------------------------------------------------


class Decomposition(_OfProcess):
    r"""A big problem in blocks, of which each rank owns one: the option `comm` of an optimiser.

    The parameters of each rank are its block. `clip_norm`, `clip_array_norm` and `nonfinite` are
    those of the whole arrays. Without `owned` and `offset`, pass the communicator itself.

    Collective: all ranks of `comm` call it.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        A private duplicate is made at its first use, and is freed together with it.
    owned : bool array, or nesting of bool arrays as that of the parameters, optional
        False at ghost cells, of the shape of the block. They are stepped like all others, but are
        left out of norms and of the check for NaN.
    offset : tuple of int, or nesting of such tuples, optional
        Place of the block's first element in the whole array. Checkpoints need it, to be read by
        another number of ranks.

    Attributes
    ----------
    rank, ranks : int
        Number of this process, and of all processes.
    owned, offset
        As they were passed; an array is copied.

    Raises
    ------
    TypeError
        If `comm` is not a communicator of mpi4py.

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
        self.owned: Any = own_copy(owned)
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

    def __repr__(self) -> str:
        """The rank, and what else was passed."""
        more = [name for name in ("owned", "offset") if getattr(self, name) is not None]
        return f"rank {self.rank} of {self.ranks}{''.join(f', {name}' for name in more)}"


def decomposition(comm: Any) -> Decomposition:
    """The option `comm` as a `Decomposition`."""
    return comm if isinstance(comm, Decomposition) else Decomposition(comm)


def ranks(comm: Decomposition) -> Ranks:
    """The ranks of a decomposition."""
    return comm._ranks  # noqa: SLF001  # this module's own class


# --- the meeting of all ranks before they step parameters that all of them hold ------------------
# Who may touch what, and when. Within a node p and the gradient windows are shared memory, and a
# rank reads the windows of its neighbours; between nodes all goes through messages:
#
# 1. Before a step each rank writes its own gradient, and nobody else reads it.
# 2. A step begins with an exchange of a few words among all ranks. It tells whether all of them
#    can go on, and it is the barrier: when it is done, all gradients are written. A rank that
#    refuses its arguments says so here, and nobody writes anything.
# 3. Each rank reads the gradients of its piece from all ranks, and writes p, m, v of its piece.
#    Its piece of p goes out to the same piece of p on the other nodes.
# 4. A barrier of the node ends the step: p is complete on this node, and no one reads the
#    gradients any more. Now each rank may read p, and overwrite its own gradient.
#
# Between steps a rank that writes shared parameters writes them for its neighbours, too.

#: Words of a rank: whether it refuses, steps taken, a digest of the rest.
_WORDS = 3


def agree(
    ranks: Ranks,
    parts: Parts,
    what: str,
    error: BaseException | None,
    rate: float,
    sync: Callable[[], None],
) -> None:
    """Go on where all ranks can, with the same numbers; else raise `RankError`. Collective.

    A rank that cannot go on passes its `error`, which it raises. `parts` are those of the optimiser
    of this rank's part, `what` is the call, for messages, and `rate` the learning rate of this
    step. `sync` makes stores visible to the ranks of this node, and theirs to this rank.
    """
    if ranks.size == 1:
        if error is not None:
            raise error
        return
    backend = parts.backend
    numbers = _digest_of(parts.settings.control, rate)
    rows = np.zeros((ranks.size, _WORDS), np.int64)
    rows[ranks.rank, 1:] = backend.t, numbers
    sync()
    ranks.exchange(rows, error, what)
    sync()
    differ = first_unlike(rows)
    if differ is None:
        return
    _, rank = differ
    t, its_t = int(rows[0, 1]), int(rows[rank, 1])
    raise RankError(
        f"{what}: t, lr or a hyperparameter of rank {rank} is not that of rank 0 (t is {its_t} and "
        f"{t}). Set them on all ranks alike, and make schedules functions of t alone."
    )


def _digest_of(control: np.ndarray, rate: float) -> int:
    """A digest of lr and of the control block, but for bounds: each rank has those of its slices.

    Rows that differ in bounds alone are one.
    """
    rows = control.copy()
    rows[:, COLUMN.low : COLUMN.high + 1] = 0.0
    same = sorted({row.tobytes() for row in rows})
    return digest(np.float64(rate).tobytes().join([b"", *same]))

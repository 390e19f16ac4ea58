"""Ranks of a communicator: waiting for each other, agreeing, and failing together."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, Self

import numpy as np

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


class Ranks:
    """The ranks of a communicator, as `ranks_of` returns them: the option `comm` of an optimiser.

    `comm` is a duplicate of the user's, whose messages meet no other ones. A copy is the same
    object.
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, int(comm.rank), int(comm.size)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "comm: a communicator cannot be pickled. Write a checkpoint, opt.save(path), or "
            "pickle params and opt.state.copy()."
        )

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

        `what` is as in `agree`. The block may take any time.
        """
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:  # an interrupt, too, ends all of them
            error = caught
        # a rank that has failed waits here for those that work on; in `agree` it would not
        if self.gather(np.array([error is not None], np.int64)).any():
            self.agree(error, what)

    def compare(self, texts: Mapping[str, str], remedy: str) -> None:
        """Refuse texts that differ between ranks, with their name. Collective.

        As many on all ranks, which gather rows of one length.
        """
        # a name may have surrogates
        words = [digest(text.encode(errors="backslashreplace")) for text in texts.values()]
        differ = first_unlike(self.gather(np.array(words, np.int64)))
        if differ is None:
            return
        column, rank = differ
        name = list(texts)[column]
        shown = self.texts(texts[name])
        raise RankError(
            f"{name}: is {shown[0]} on rank 0 and {shown[rank]} on rank {rank}. {remedy}"
        )

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
    if isinstance(comm, Ranks):
        return comm
    module = sys.modules.get("mpi4py.MPI")  # whoever has a communicator has loaded it
    if module is not None and isinstance(comm, module.Comm) and comm == module.COMM_NULL:
        raise ValueError("comm: is COMM_NULL: this process is not in it. Leave it out here.")
    if module is None or not isinstance(comm, module.Intracomm):
        raise TypeError(
            "comm: expected a communicator of mpi4py, such as MPI.COMM_WORLD, got "
            f"{type(comm).__name__}."
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
                ranks.comm.Free()

        _key = module.Comm.Create_keyval(delete_fn=free)
    return _key

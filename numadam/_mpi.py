"""Ranks of an MPI program: agreeing and failing together, norms of all blocks, a file for each."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

import numpy as np

from numadam._checkpoint import container
from numadam._checkpoint.container import CheckpointError, Container, about_file

if TYPE_CHECKING:
    from numadam._settings.settings import Settings

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
# A rank may have failed before the others come to `share`: that one is nonblocking, so that it can
# wait for them with a time limit.

#: Seconds that a failed rank waits for the others, before it ends the whole program.
LEFT_ALONE = 5.0
#: Seconds between two looks at whether they have come.
_PAUSE = 0.001

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

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank. Collective."""
        values: list[Any] = self._alive().allgather(value)
        return values

    def share(self, rows: np.ndarray, patience: float | None = None) -> bool:
        """Fill in the rows of the other ranks; this rank's words are in its own. Collective.

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
            time.sleep(_PAUSE)
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
        if any(self.gather(error is not None)):
            self.agree(error, what)

    def compare(self, texts: Mapping[str, str], remedy: str) -> None:
        """Refuse texts that differ between ranks, with their name. Collective."""
        every = self.gather(dict(texts))
        for name, text in every[0].items():
            for rank, others in enumerate(every):
                if others.get(name) != text:
                    both = f"{text:.500} on rank 0 and {others[name]:.500} on rank {rank}"
                    raise RankError(printable(f"{name}: is {both}. {remedy}"))

    def tell(self, error: BaseException | None, failed: np.ndarray, what: str) -> NoReturn:
        """Raise the error of this rank, or `RankError` with the message of the first that failed.

        Collective: all ranks know already which of them failed.
        """
        texts = self.gather("" if error is None else described(error))
        if error is not None:
            raise error
        first = int(np.flatnonzero(failed)[0])
        raise RankError(f"{what}: rank {first} of {self.size} failed. {texts[first]}")

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


def printable(text: str) -> str:
    """A text without halves of characters, as a path may have them."""
    return text.encode(errors="backslashreplace").decode()


def described(error: BaseException) -> str:
    """An error as a message to other ranks, which wait for it whatever it is."""
    try:
        text = str(error)
    except Exception as unsaid:
        text = f"its text raised {type(unsaid).__name__}"
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)


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


# --- exchange of ranks in a step that forms a norm -----------------------------------------------

_WHILE = "step"


class StepExchange:
    """The exchange of one optimiser with the same one on the other ranks, at steps with a norm.

    `names` are what the user calls the numbers of `same`. The back end sets `words`, the number of
    words that a rank passes to `gather`.
    """

    def __init__(self, ranks: Ranks, names: Sequence[str]) -> None:
        self._ranks, self._names = ranks, ["lr", *names]
        self.size, self.words = ranks.size, 0
        #: whether the step under way has exchanged its words: of a later error nobody has to know
        self._met, self._rate = False, 0.0

    def gather(self, words: np.ndarray, same: np.ndarray) -> np.ndarray:
        """The words of every rank, a row for each, in int64. Collective.

        `same` are numbers in float64 that have to be those of all other ranks. Raises `RankError`
        where they are not, and where another rank refuses the step.
        """
        rows, begin = self._rows(), 1 + len(self._names)
        rows[self._ranks.rank, 1:begin] = np.array([self._rate, *same]).view(np.int64)
        rows[self._ranks.rank, begin:] = words
        self._ranks.share(rows)
        self._met = True
        if rows[:, 0].any():
            self._ranks.tell(None, rows[:, 0] != 0, _WHILE)
        self._refuse_unlike(rows[:, 1:begin])
        return rows[:, begin:]

    def begin(self, lr: float) -> None:
        """Begin a step with this learning rate, which has to be that of all other ranks."""
        self._met, self._rate = False, lr

    def done(self) -> None:
        """Note that the step has ended without an error."""
        self._met = False

    def refuse(self, error: BaseException) -> None:
        """Tell the ranks that wait in `gather`, unless this error came after it; raise the error.

        Where they do not come within a few seconds, the program ends.
        """
        met, self._met = self._met, False
        if not met:
            self._ranks.exchange(self._rows(), error, _WHILE)

    def _rows(self) -> np.ndarray:
        return np.zeros((self.size, 1 + len(self._names) + self.words), np.int64)

    def _refuse_unlike(self, rows: np.ndarray) -> None:
        """Raise on all ranks for the first number that is not the same everywhere; NaN is NaN."""
        unlike = rows != rows[0]
        if not unlike.any():
            return
        column = int(unlike.any(axis=0).argmax())
        rank = int(unlike[:, column].argmax())
        numbers = rows[:, column].copy().view(np.float64)
        raise RankError(
            f"{self._names[column]}: is {numbers[0]:g} on rank 0 and {numbers[rank]:g} on rank "
            f"{rank} in the same step. Make the same calls and set the same hyperparameters on all "
            "ranks."
        )


# --- making one optimiser on all ranks -----------------------------------------------------------

#: Options that belong to the block of a rank, as its parameters do.
_OF_BLOCK = ("bounds", "comm")


class Construction:
    """Options of an optimiser that all ranks take together; `what` they do, for errors."""

    def __init__(self, ranks: Ranks, what: str) -> None:
        self.ranks, self._what = ranks, what
        self._agreed = False

    def join(self, settings: Settings, names: Sequence[str]) -> None:
        """Give the settings what they need to work with those of the other ranks."""
        from numadam._settings.settings import names_of_same

        if settings.plan.norm:
            settings.exchange = StepExchange(self.ranks, names_of_same(settings.rule))
        settings.together = lambda home: self._agree(settings, names, home)

    def _agree(self, settings: Settings, names: Sequence[str], home: str) -> None:
        """Go on where all ranks have come so far, with the same of everything. Collective."""
        self._agreed = True
        self.ranks.agree(None, self._what)
        remedy = (
            "Make the optimiser with the same structure, dtypes and options on all ranks; only "
            "shapes may differ."
        )
        options = {"lr": settings.lr, **settings.options}
        texts = {
            "rule": settings.rule.key,
            "library of params": home,
            "number of arrays": str(len(names)),
            "names of params": ", ".join(names),
            "dtype": settings.plan.dtype.name,
            "options": ", ".join(settings.options),
        }
        texts |= {name: _described(options[name]) for name in options if name not in _OF_BLOCK}
        self.ranks.compare(texts, remedy)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raise an error of this rank, after the other ranks are told, where they wait for it."""
        if error is not None and not self._agreed:
            self._agreed = True
            self.ranks.agree(error, self._what)


def _described(value: Any) -> str:
    """A value as a text that is the same on all ranks: arrays may differ, functions have names."""
    if isinstance(value, Mapping):
        entries = [f"{key!r}: {_described(entry)}" for key, entry in value.items()]
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_described, value)) + ")"
    if getattr(value, "ndim", 0) or hasattr(value, "__cuda_array_interface__"):
        return "an array"
    if hasattr(value, "item"):
        return repr(value.item())
    if value is None or isinstance(value, (bool, int, float, str, np.dtype)):
        return repr(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))


# --- checkpoints of blocks -----------------------------------------------------------------------
# A file for each rank, all of one save. A save writes new files beside the last ones, and renames
# them where all ranks have theirs. So wherever a program ends there is a save of which each rank
# has a file, under one of two names.

#: Entry of a file's `meta`: the number of its rank, that of all ranks, and that of the save.
_KEY = "ranks"


class _File(NamedTuple):
    """A file of this rank, and what ranks compare of it: the number of its save, and t."""

    path: Path
    number: int
    t: int
    content: Container


def _names(ranks: Ranks, path: str | os.PathLike[Any]) -> tuple[Path, Path]:
    """Names of this rank's file: until all ranks have theirs, and then."""
    container.check_path(path)
    whole = Path(os.fsdecode(path))
    stem = f"{whole.stem}.{ranks.rank}-of-{ranks.size}"
    return whole.with_name(f"{stem}.new{whole.suffix}"), whole.with_name(stem + whole.suffix)


def _read(ranks: Ranks, path: Path, kind: str) -> _File:
    content = container.read(path, kind)
    with about_file(path):
        rank, size, number = content.meta.get(_KEY, (0, 1, 0))
        if (rank, size) != (ranks.rank, ranks.size):
            raise ValueError(
                f"is the file of rank {rank} of {size}, and here is rank {ranks.rank} of "
                f"{ranks.size}. Load it under its own name, on as many ranks."
            )
        number, t = np.array([number, content.meta["counters"]["t"]], np.int64).tolist()
        return _File(path, number, t, content)


def _last_save(ranks: Ranks, files: Sequence[_File]) -> _File | None:
    """File of the last save that all ranks have, None where there is none. Collective.

    `files` are the files of this rank, of the later save first.
    """
    numbers = [file.number for file in files]
    every = ranks.gather(numbers)
    whole = (number for number in every[0] if all(number in others for others in every))
    last = next(whole, None)
    return None if last is None else files[numbers.index(last)]


def save_file(
    ranks: Ranks, path: str | os.PathLike[Any], kind: str, make: Callable[[], Container]
) -> None:
    """Write what each rank makes, on all ranks or on none. Collective."""
    with ranks.all_or_none("save"):
        new, file = _names(ranks, path)
        content = make()
    ranks.compare(_alike(content.meta), "Make the optimisers alike on all ranks.")
    numbers, killed = zip(*ranks.gather((secrets.randbits(62), new.exists())), strict=True)
    if any(killed):
        _end_renames(ranks, new, file, kind)
    meta = {**content.meta, _KEY: [ranks.rank, ranks.size, numbers[0]]}
    try:
        with ranks.all_or_none("save"):
            container.write(new, content._replace(meta=meta))
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    with ranks.all_or_none("save"):
        new.replace(file)


def _end_renames(ranks: Ranks, new: Path, file: Path, kind: str) -> None:
    """End the renames of a killed save: the next one would overwrite a part of it. Collective."""
    files = []
    for path in (new, file):
        with suppress(OSError, CheckpointError):  # what cannot be loaded may be overwritten
            files.append(_read(ranks, path, kind))
    last = _last_save(ranks, files)
    with ranks.all_or_none("save"):
        if last is not None and last.path == new:
            new.replace(file)


def _alike(meta: dict[str, Any]) -> dict[str, str]:
    """Values that have to be the same on all ranks, by the user's names: all but bounds."""
    options = {name: value for name, value in meta["options"].items() if name != "bounds"}
    values = {**meta["counters"], "lr": meta["lr"], **options, "schedules": meta["schedules"]}
    return {name: json.dumps(value) for name, value in values.items()}


def load_file(ranks: Ranks, path: str | os.PathLike[Any], kind: str) -> Container:
    """Read the file of the last save that all ranks have. Collective."""
    with ranks.all_or_none("load"):
        names = _names(ranks, path)
        files = [_read(ranks, name, kind) for name in names if name.exists()]
        others = _other_sizes(names[1])
    whole = bool(files) and files[-1].path == names[1]
    has_some, are_whole = zip(*ranks.gather((bool(files), whole)), strict=True)
    if not all(has_some):
        if any(are_whole):  # then all had one
            raise CheckpointError(
                f"{os.fsdecode(path)}: the file of rank {has_some.index(False)} of {ranks.size} is "
                "missing. Copy all files of one save together."
            )
        raise FileNotFoundError(f"{names[1]}: there is no save of {ranks.size} ranks.{others}")
    last = _last_save(ranks, files)
    if last is not None:
        return last.content
    t = ranks.gather(files[-1].t)
    raise CheckpointError(
        f"{os.fsdecode(path)}: the files of the ranks are not of one save: their t are "
        f"{', '.join(map(str, t))}. Copy all files of one save together."
    )


def _other_sizes(file: Path) -> str:
    """A sentence on files of other numbers of ranks."""
    stem, _, _ = file.stem.rpartition(".")
    name = re.compile(rf"{re.escape(stem)}\.\d+-of-(\d+){re.escape(file.suffix)}")
    names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    sizes = sorted({int(match[1]) for match in map(name.fullmatch, names) if match})
    if not sizes:
        return ""
    return f" There are files of {' and '.join(map(str, sizes))} ranks: start as many."

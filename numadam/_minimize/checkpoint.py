"""The file of a run, and the state of a result: what is compared before a run goes on from them."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numadam._arrays.checks import describe, is_masked
from numadam._arrays.formatting import brief
from numadam._arrays.interop import home, is_cupy, to_host
from numadam._arrays.tree import Tree
from numadam._checkpoint import container
from numadam._checkpoint import tree as nesting
from numadam._checkpoint.container import CheckpointError, Container
from numadam._core.hyper import count
from numadam._core.options import DEFAULTS, own_copy
from numadam._core.parts import parts_of
from numadam._minimize.arguments import checksum
from numadam._minimize.compiled.objective import is_compiled
from numadam._minimize.stopping import BAD_G, CALLBACK, Tolerances
from numadam._optimizer.optimizer import Optimizer

# --- the state of a result -----------------------------------------------------------------------


class Best(NamedTuple):
    """The iterate of the lowest f; `jac` is None where no gradient was formed there."""

    x: Any
    fun: float
    jac: Any
    grad_norm: float


#: Entries of a saved run besides those of the optimiser's state.
_OF_THE_RUN = (*Best._fields, "x_last", "first_grad_norm", "first_gradient", "norm")


def save_state(
    saved: dict[str, Any],
    x_last: Any,
    best: Best | None,
    first: float,
    norm: float,
    firsts: Any,
) -> dict[str, Any]:
    """Add to `saved`, the state of the optimiser, what else belongs to a run.

    No entry may be an array that somebody else writes to. `first` is the norm of the first
    projected gradient, NaN where none was formed, and `firsts` its components.
    """
    if best is not None:
        saved["x"], saved["fun"], saved["grad_norm"] = best.x, best.fun, best.grad_norm
        if best.jac is not None:
            saved["jac"] = best.jac
    saved["x_last"] = x_last
    if math.isfinite(first):
        saved["first_grad_norm"], saved["norm"], saved["first_gradient"] = first, norm, firsts
    return saved


def start_of(saved: Any, x0: Any) -> Any:
    """A copy of the x that a saved run goes on from; `x0` gives the structure."""
    if not hasattr(saved, "items") or "nit" in saved:
        hint = " Pass its `state`: state=result.state." if hasattr(saved, "items") else ""
        raise TypeError(
            f"state: expected the `state` of a result, got {type(saved).__name__}.{hint}"
        )
    if "x_last" not in saved:
        return x0  # the state of an optimiser
    x = copy.deepcopy(saved["x_last"])
    tree = Tree(x0)
    _check_alike("x_last", tree.flatten(x, "state['x_last']"), tree.flatten(x0, "x0"))
    return x


def _check_alike(name: str, saved: Sequence[Any], leaves: Sequence[Any]) -> None:
    """Refuse saved arrays of other shapes or dtypes than those of x0, `leaves`."""
    for its, mine in zip(saved, leaves, strict=True):
        if is_masked(its):
            raise TypeError(f"state[{name!r}]: {describe(its)}")
        got = getattr(its, "shape", type(its).__name__), getattr(its, "dtype", "")
        if got != (mine.shape, mine.dtype):
            raise ValueError(
                f"state[{name!r}]: expected the shapes and dtypes of x0, got {got[0]} {got[1]} "
                f"for {mine.shape} {mine.dtype}."
            )


def first_of(saved: Any, tolerances: Tolerances) -> float:
    """The norm of the first projected gradient of a saved run, NaN where there is none."""
    if saved is None or "first_grad_norm" not in saved:
        return math.nan
    if saved["norm"] != tolerances.norm:
        if tolerances.gtol_rel == 0.0:
            return math.nan  # nothing asks for it; it is saved anew in the other norm
        raise ValueError(
            f"norm: the saved run has the first gradient in norm={saved['norm']}, got "
            f"norm={tolerances.norm}. Pass the same, or a gtol."
        )
    return float(saved["first_grad_norm"])


def load_state(optimizer: Optimizer, saved: Any, firsts: Sequence[Any]) -> Best | None:
    """Load a saved run, its first gradient into `firsts`.

    Returns a copy of its best iterate, unless that violates the bounds.
    """
    optimizer.state = {key: value for key, value in saved.items() if key not in _OF_THE_RUN}
    tree, settings, backend, _ = parts_of(optimizer)
    if "first_grad_norm" in saved and "first_gradient" in saved:
        leaves = tree.flatten(saved["first_gradient"], "state['first_gradient']")
        _check_alike("first_gradient", leaves, firsts)
        for own, leaf in zip(firsts, leaves, strict=True):
            own[...] = leaf
    if "x" not in saved:
        return None
    # files of arrays hold numbers as arrays
    fun, size = float(saved["fun"]), float(saved["grad_norm"])
    best = Best(copy.deepcopy(saved["x"]), fun, copy.deepcopy(saved.get("jac")), size)
    leaves = tree.flatten(best.x, "state['x']")
    _check_alike("x", leaves, backend.params)
    if best.jac is not None:
        _check_alike("jac", tree.flatten(best.jac, "state['jac']"), backend.params)
    if not math.isfinite(best.fun):
        return None
    boxes = settings.leaf_boxes()  # the saved run may have had others
    inside = boxes is None or all(
        bool(((leaf >= low) & (leaf <= high)).all())
        for leaf, (low, high) in zip(leaves, boxes, strict=True)
    )
    return best if inside else None


# --- the same objective --------------------------------------------------------------------------


#: Differences of f that another machine explains, relative, by the bytes of a real number.
_ROUNDED = {4: 1e-3, 8: 1e-6}
#: Roundings by which an f near 0 may differ, each of the size that one of x has in f.
_ROUNDINGS_NEAR_0 = 1e3


def check_objective(
    saved: Any, now: Any, change: Any, dtype: np.dtype[Any], where: str, path: Path | None
) -> None:
    """Refuse to go on where the objective has other values than the run had.

    `saved` and `now` are f at the same x, of one problem or of each. Their difference is compared
    with f, and with `change`: how much f would change with all of x, by the first gradient. For f
    may be 0 at the minimum, and is rounded as the terms that cancel there; or large, and nearly all
    of it a constant. `where` names the iterate; ``{k}`` in it is the number of the problem.
    `path` is the file that has `saved`; None for the `state` of a result.
    """
    real = np.finfo(dtype)
    saved, now, change = map(np.atleast_1d, (saved, now, change))
    rounded, size = _ROUNDED[real.bits // 8], abs(saved)
    noise = _ROUNDINGS_NEAR_0 * float(real.eps) * np.nan_to_num(change, posinf=0.0)
    noise += rounded * np.fmin(size, change) + rounded**2 * np.nan_to_num(size, posinf=0.0)
    _refuse_unlike("f", saved, now, 0.0, noise, where, path)


def check_gradient(
    saved: np.ndarray, now: np.ndarray, first: Any, where: str, path: Path | None
) -> None:
    """As `check_objective`, of gradients at the same x; `first` is the norm of the first one.

    ``{k}`` in `where` is the number of the problem, the first index.
    """
    real = np.finfo(saved.dtype)
    noise = _ROUNDINGS_NEAR_0 * float(real.eps) * np.nan_to_num(np.asarray(first), posinf=0.0)
    noise = noise.reshape(noise.shape + (1,) * (saved.ndim - noise.ndim))
    _refuse_unlike("the gradient", saved, now, _ROUNDED[real.bits // 8], noise, where, path)


def _refuse_unlike(
    name: str, saved: Any, now: Any, relative: float, noise: Any, where: str, path: Path | None
) -> None:
    alike = np.isclose(now, saved, relative, noise, equal_nan=True)
    if alike.all():
        return
    at = tuple(map(int, np.unravel_index(np.argmin(alike), alike.shape)))
    name += f" at {list(at)}" if at and name != "f" else ""
    error, run, new = ValueError, "state: its run", 'delete its entries "x" and "first_grad_norm"'
    if path is not None:
        error, run, new = CheckpointError, f"fun: the run of {str(path)!r}", "delete the file"
    raise error(
        f"{run} has {name}={saved[at]:.9g} {where.format(k=at[0] if at else 0)}, got {now[at]:.9g} "
        f"there: fun or args have changed. To minimise the new f, {new}; if fun is random, pass "
        "checkpoint_check=False."
    )


# --- the file of a run ---------------------------------------------------------------------------


#: Without `checkpoint_every`: seconds from one write to the next, and the share of the time of a
#: run that writing takes at most.
_SECONDS, _SHARE_OF_TIME = 10.0, 0.05
#: More iterations than a run has.
NEVER = 2**62
_X0_VALUES = "the values of x0"
#: Counts and codes of a run, and the largest of each.
_COUNTS = {**dict.fromkeys(("done", "begin", "nfev", "njev"), 2**53), "code": CALLBACK}
#: Types of its numbers that are no floats.
_NUMBER_TYPES: dict[str, Any] = {
    "f": (float, type(None)),
    **dict.fromkeys(("resumed", "tested", "later"), (bool,)),
}


def _check_content(numbers: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse counts and codes that no run has: a checksum does not say who has made a file.

    All else is checked by who takes it.
    """
    for name, value in numbers.items():
        kinds = (int,) if name in _COUNTS else _NUMBER_TYPES.get(name, (float,))
        if type(value) not in kinds or (name in _COUNTS and not 0 <= value <= _COUNTS[name]):
            raise ValueError(f"{name} is {value!r:.80}, which no run has.")
    done = numbers["done"]
    t = numbers.get("begin", 0) + done
    if not np.array_equal(arrays.get("state/t", t), t):
        raise ValueError(f"state/t is {brief(arrays['state/t'])}, and {t} iterations are done.")
    ranges: Any = {name: one for name, one in arrays.items() if name in ("codes", "nit")}
    ranges["history"] = arrays.get("history", np.zeros((0, 4)))[:, 0]
    for name, high in (("codes", BAD_G), ("nit", done), ("history", t)):
        numbered = ranges.get(name, np.zeros(0))
        if not ((numbered >= 0) & (numbered <= high)).all():
            raise ValueError(f"{name} has numbers outside of 0 to {high}.")


class RunState(NamedTuple):
    """A run as a file has it: its numbers and its arrays, by name.

    One array of the shape of x0 is ``gradient``, those of a nesting ``gradient/layers/0/w``:
    `keys` are what follows the name.
    """

    path: Path
    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def number(self, name: str) -> Any:
        """A saved number, text or None."""
        if name not in self.numbers:
            raise CheckpointError(f"{self.path}: has no {name!r}, so it is no whole run.")
        return self.numbers[name]

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A saved array, which has to have this shape and dtype."""
        array = self.arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            got = "none" if array is None else f"{array.dtype} {array.shape}"
            raise CheckpointError(
                f"{self.path}: {name}: expected an array of {np.dtype(dtype)} {shape}, got {got}."
            )
        return array

    def leaves(self, name: str, like: Sequence[Any], keys: Sequence[str] = ("",)) -> list[Any]:
        """Saved arrays with the shapes and dtypes of `like`, and of its library."""
        return [
            _beside(self.array(name + key, leaf.shape, leaf.dtype), leaf)
            for key, leaf in zip(keys, like, strict=True)
        ]

    def table(self, name: str, columns: int) -> np.ndarray:
        """A saved table of float64 with so many columns and any number of rows."""
        rows = self.arrays[name].size // columns if name in self.arrays else 0
        return self.array(name, (rows, columns), np.float64)

    def has(self, name: str, keys: Sequence[str] = ("",)) -> bool:
        """Whether there is any array of this name; `leaves` takes all or none."""
        return any(name + key in self.arrays for key in keys)


def keys_of(x: Any, tree: Tree) -> list[str]:
    """The ends of the names of the arrays of a nesting: "" for one array alone."""
    names = nesting.Structure(x).names
    return [names[path].removeprefix("p") for path in tree.paths()]


def _beside(array: np.ndarray, leaf: Any) -> Any:
    """The array in the library of `leaf`."""
    if not is_cupy(leaf):
        return array
    import cupy

    return cupy.asarray(array)


def by_name(name: str, leaves: Sequence[Any], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays as `RunState.leaves` finds them: NumPy's own, not copied, and copies of CuPy's."""
    pairs = zip(keys, leaves, strict=True)
    return {name + key: np.asarray(to_host(leaf)) for key, leaf in pairs}


def state_arrays(optimizer: Optimizer, keys: Sequence[str] = ("",)) -> dict[str, np.ndarray]:
    """Counters and state of an optimiser by name; those of NumPy are not copied."""
    backend = parts_of(optimizer).backend
    found = {f"state/{name}": np.asarray(value) for name, value in backend.counters.items()}
    for name, views in backend.state.items():
        found |= by_name(f"state/{name}", views, keys)
    return found


def load_state_arrays(optimizer: Optimizer, run: RunState, keys: Sequence[str] = ("",)) -> None:
    """Load what `state_arrays` has saved."""
    tree, _, backend, _ = parts_of(optimizer)
    saved: dict[str, Any] = {
        name: run.array(f"state/{name}", value.shape, value.dtype)
        for name, value in backend.counters.items()
    }
    for name, views in backend.state.items():
        saved[name] = tree.unflatten(run.leaves(f"state/{name}", views, keys))
    with container.about_file(run.path):
        optimizer.state = saved


class Checkpoint:
    """The file that a run is saved to and goes on from, of the function `kind`.

    `every`: iterations from one write to the next; None: by time.
    """

    def __init__(self, path: Any, every: Any, kind: str) -> None:
        if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
            raise TypeError(f"checkpoint: expected the path of a file, got {type(path).__name__}.")
        # absolute: fun may change the folder
        self.path, self._kind = Path(path).absolute(), kind
        self._check_place()
        self._every = None if every is None else count("checkpoint_every", every, 1)
        self._next = self._every or 0
        self._found: Container | None = None
        self._plateaus: list[Any] = []
        self._written, self._seconds = time.monotonic(), 0.0

    def _check_place(self) -> None:
        """Refuse a path that cannot be written to, before a run of hours finds out."""
        folder = Path(os.path.realpath(self.path)).parent
        if not folder.is_dir():
            raise FileNotFoundError(
                f"checkpoint: there is no folder {str(folder)!r}; make it first."
            )
        try:
            container.check_writable(self.path)
        except OSError as error:
            text = f"checkpoint: {error.strerror}"
            raise OSError(error.errno, text, str(self.path)) from error

    def define(self, task: Task, **entries: Any) -> None:
        """Set what defines the run besides `lr` and options, and compare it with the file.

        Of functions only the kind can be compared. Where the run begins with the `state` of another
        one, x0 means nothing.
        """
        if task.state is not None and self.path.exists():
            raise ValueError(
                f"state: the run goes on from the file that is there, {str(self.path)!r}. Leave "
                "out `state`, or pass another path."
            )
        tree = Tree(task.x)
        leaves = tree.flatten(task.x, "x0")
        pairs = zip(tree.names("x0"), leaves, strict=True)
        self._run = {
            "x0": [f"{name}: {leaf.dtype} {leaf.shape} of {home(leaf)}" for name, leaf in pairs],
            _X0_VALUES: checksum(leaves) if task.state is None else None,
            "fun": "compiled" if is_compiled(task.fun) else "in Python",
            "jac": "function" if callable(task.jac) else task.jac,
            "rule": task.rule.__name__,
            **task.rule.rule.written_formula,
            **task.tolerances._asdict(),
            **entries,
            "check_every": task.check_every,
        }
        if not self.path.exists():
            return
        self._found = found = container.read(self.path, self._kind)
        theirs = found.meta.get("run")
        if not isinstance(theirs, dict):
            raise CheckpointError(f"{self.path}: does not say which run it is of.")
        for name in {**self._run, **theirs}:
            its, mine = theirs.get(name), self._run.get(name)
            if its != mine and not (name == _X0_VALUES and its is None):  # None: it began elsewhere
                self._refuse(name, its, mine)

    def load(self, lr: Any, options: Mapping[str, Any]) -> RunState | None:
        """The run at its last write, None where there is no file.

        Refused where the file has other options.
        """
        self._given = own_copy(lr), own_copy(dict(options))
        self._rule({})  # refuses functions before anything is evaluated
        found, self._found = self._found, None
        if found is None:
            return None
        with container.about_file(self.path):
            its_lr, options = nesting.options_from_json(found.meta["rule"], found.arrays)
            theirs, own = {"lr": its_lr, **options}, {"lr": self._given[0], **self._given[1]}
            for name in {**own, **theirs}:
                # an option that is newer than the file
                value, mine = theirs.get(name, DEFAULTS.get(name)), own.get(name)
                if not nesting.equal(value, mine):
                    self._refuse(name, value, mine)
            numbers = found.meta["at"]
            _check_content(numbers, found.arrays)
            both = (nesting.plateaus_in(list(values.values())) for values in (own, theirs))
            self._plateaus = list(zip(*both, strict=True))
        self._plan_next(numbers["done"])
        return RunState(self.path, numbers, found.arrays)

    def go_on(self, nit: int, over: bool) -> str:
        """Give the user's schedules the state of the file; the beginning of the run's message.

        `nit` is the iteration at which the run goes on, unless it is `over`.
        """
        for mine, its in self._plateaus:
            vars(mine).update(vars(its))
        if over:
            return f"Already finished in {self.path}. "
        return f"Continued from {self.path} at iteration {nit}. "

    def _refuse(self, name: str, its: Any, mine: Any) -> None:
        if name == _X0_VALUES or (its := brief(its)) == (mine := brief(mine)):
            text = f"{'x0' if name == _X0_VALUES else name}: the run has other numbers"
        else:
            text = f"{name}: the run has {its}, got {mine}"
        raise CheckpointError(
            f"{text} (checkpoint={str(self.path)!r}). Pass the same to go on with that run, or "
            "another path, or delete the file, to start a new one."
        )

    def _rule(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        return nesting.options_to_json(*self._given, arrays, ", or run without checkpoint")

    def _plan_next(self, done: int) -> None:
        if self._every is not None:
            self._next = (done // self._every + 1) * self._every

    def due(self, done: int) -> bool:
        """Whether the file has to be written, so many iterations into the run."""
        if self._every is not None:
            return done >= self._next
        wait = max(_SECONDS, self._seconds / _SHARE_OF_TIME)
        return time.monotonic() - self._written >= wait

    def gap(self, done: int) -> int:
        """Iterations until `due` has to be asked again."""
        return NEVER if self._every is None else max(1, self._next - done)

    def write(self, done: int, numbers: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Write the run as it is, so many iterations after its start."""
        begin, extra = time.monotonic(), dict[str, np.ndarray]()
        meta = {"run": self._run, "rule": self._rule(extra), "at": {"done": done, **numbers}}
        container.write(self.path, Container(self._kind, meta, {**arrays, **extra}))
        self._written = time.monotonic()
        self._seconds = self._written - begin
        self._plan_next(done)

    def write_after(self, error: BaseException, *run_state: Any) -> None:
        """Write the run that an exception has ended; a file that fails is a note on it."""
        try:
            self.write(*run_state)
        except Exception as failed:
            error.add_note(f"numadam: {str(self.path)!r} could not be written: {failed}")


def read_checkpoint(path: Any, every: Any, kind: str) -> Checkpoint | None:
    """The arguments `checkpoint` and `checkpoint_every`, validated; None where there is none."""
    if path is None:
        if every is not None:
            raise ValueError("checkpoint_every: goes with checkpoint=path, which was not given.")
        return None
    return Checkpoint(path, every, kind)


# --- arguments of a run --------------------------------------------------------------------------


class Task(NamedTuple):
    """The arguments of `minimize` or of `minimize_many`, validated.

    `rates` are the problems' own step sizes. The fields after it are for one problem.
    """

    fun: Any
    x: Any
    args: tuple[Any, ...]
    jac: Any
    rule: Any
    lr: Any
    options: dict[str, Any]
    tolerances: Tolerances
    maxiter: int
    check_every: int | None
    progress: bool
    checkpoint: Checkpoint | None
    checkpoint_check: bool
    rates: np.ndarray | None = None
    track_best: bool | None = None
    every: int = 0
    state: Any = None
    callback: Any = None

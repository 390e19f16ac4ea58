"""Optimisers in files: what a checkpoint holds, and how it comes into an optimiser.

What is written stands beside what compares and what reads it: an entry of the file is in all three.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from numadam._arrays.formatting import brief
from numadam._arrays.interop import assign, is_cupy, to_host
from numadam._arrays.tree import some
from numadam._checkpoint import tree as nesting
from numadam._checkpoint.container import Container, about_file, read, write
from numadam._core import options as op
from numadam._core.parts import parts_of
from numadam._jit.process import Writes
from numadam._optimizer.base import Kind, OptimizerBase, default_options
from numadam._optimizer.state import check_state
from numadam._version import __version__
from numadam.schedules import ReduceOnPlateau

KIND = "optimizer"


class Checkpointed(OptimizerBase):
    """An optimiser with `save` and `load`."""

    def save(self, path: str | os.PathLike[Any]) -> None:
        """Write parameters, state, counters and all options of the current step to a file.

        The file is an `.npz`, which `numpy.load` opens, with plain names (``p/w``, ``m/w``) and a
        checksum of every array. It is written next to `path` and then renamed: after a crash or
        with a full disk the old file remains. `numadam.load` makes a new optimiser from it, `load`
        reads it into an existing one; both continue with the same bits.

        Parameters
        ----------
        path : str or path-like
            The file; an existing one is replaced. With `comm` each rank has its own, which is
            called by its number and that of all ranks: ``run.0-of-4.npz``.

        Raises
        ------
        TypeError
            If an option is the user's own function; schedules of `numadam.schedules` can be saved.
            No file is changed then.
        OSError
            If the file cannot be written.
        numadam.mpi.RankError
            With `comm`, if another rank raises an error, or if t, lr or an option is not the same
            on all ranks. All ranks keep their last files then.

        Notes
        -----
        With `comm` collective. The files become those of the new step when all ranks have written
        theirs. Wherever the program ends, `load` finds the last step that all ranks have saved.

        Steps of other threads wait until the file is complete. To step meanwhile, save a copy:
        ``threading.Thread(target=copy.deepcopy(opt).save, args=(path,)).start()``.
        Frozen arrays are in the file, `grads` are not.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import numadam as na
        >>> opt = na.Adam({"w": np.ones(2)}, lr=0.1)
        >>> path = Path(tempfile.mkdtemp()) / "run.npz"
        >>> opt.save(path)
        >>> opt.step({"w": np.ones(2)})
        >>> opt.load(path)
        >>> opt.t, opt.params["w"]
        (0, array([1., 1.]))
        """
        comm = parts_of(self).settings.options.get("comm")
        with self._lock:
            if comm is None:
                write(path, self._content())
                return
            from numadam import _mpi

            _mpi.save_file(comm, path, KIND, self._content)

    def _content(self) -> Container:
        self._refuse_new_params()
        return content_of(self)

    def load(self, path: str | os.PathLike[Any]) -> None:
        """Load a file that `save` wrote; parameters are written in place.

        Everything is checked first; then all of it is loaded, or nothing. Names, shapes and dtypes
        of the arrays must be those of the file, and so must the rule and the options that are
        fixed when an optimiser is made. lr and the hyperparameters become those of the file. A
        `numadam.schedules.ReduceOnPlateau` stays the same object and gets the state of the file. A
        list, a tuple and a dict with the keys 0, 1, ... give arrays the same names, so that the
        file of one of them can be loaded into another.

        Parameters
        ----------
        path : str or path-like
            The file; one of a CPU can be loaded on a GPU, and the other way round. With `comm`
            collective: each rank loads its own file, all of them or none, on as many ranks.

        Raises
        ------
        numadam.CheckpointError
            If the file is damaged, or does not fit this optimiser; the message says what. With
            `comm` also if the files of the ranks are not of one save.
        OSError
            If it cannot be read.

        See Also
        --------
        numadam.load : a new optimiser from the file alone.

        Examples
        --------
        See `save`.
        """
        comm = parts_of(self).settings.options.get("comm")
        if comm is None:
            content, together = read(path, KIND), nullcontext()
        else:
            from numadam import _mpi

            content, together = _mpi.load_file(comm, path, KIND), comm.all_or_none("load")
        with self._lock:
            with together:
                self._refuse_new_params()
                self._backend.check()
                with about_file(path):
                    found = fit(self, content)
            self._backend.load(*found)


class Arrays:
    """The arrays of an optimiser by their names in a file: parameters ``p/w``, state ``m/w``.

    `structure` is that of the parameters, frozen ones too; `active` are the names of the others.
    """

    def __init__(self, optimizer: OptimizerBase) -> None:
        self.parts, self.structure = parts_of(optimizer), nesting.Structure(optimizer.params)
        backend = self.parts.backend
        self.active = [self.structure.names[tuple(path)] for path in self.parts.tree.paths()]
        self.named = self.structure.leaves | dict(zip(self.active, backend.params, strict=True))
        for state, views in backend.state.items():
            names = self._of_state(state)
            self.named |= dict(zip(names, views, strict=True))

    def _of_state(self, state: str) -> list[str]:
        return [state + name.removeprefix("p") for name in self.active]

    def groups(self) -> dict[str, int]:
        """The group of each array, where groups have running products of their own."""
        settings = self.parts.settings
        if not settings.plan.products or len(settings.control) == 1:
            return {}
        return dict(zip(self.active, settings.group_of_leaf, strict=True))

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Compare names, shapes and dtypes of a file with those of the optimiser."""
        saved = [name for name in arrays if not name.startswith("options/")]
        for kind in ("p", ""):  # parameters first: the names of the state follow from theirs
            own, its = (
                sorted(name for name in names if not kind or name.partition("/")[0] == kind)
                for names in (self.named, saved)
            )
            if own != its:
                raise ValueError(
                    f"{'params' if kind else 'state'}: the optimiser has the arrays {some(own)}, "
                    f"the file {some(its)}. Nest params as in the file, or use numadam.load."
                )
        for name, here in self.named.items():
            there = arrays[name]
            if (there.shape, there.dtype) != (here.shape, here.dtype):
                raise ValueError(
                    f"{name}: is {there.dtype} of shape {there.shape} in the file, {here.dtype} of "
                    f"shape {here.shape} in the optimiser."
                )

    def params(self, content: Container) -> list[Any]:
        """The parameters of a file that are not frozen."""
        return self.parts.backend.from_host([content.arrays[name] for name in self.active])

    def state(self, content: Container) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Counters and state arrays of a file, checked."""
        entries, backend = dict(content.meta["counters"]), self.parts.backend
        for state in backend.state:
            arrays = [content.arrays[name] for name in self._of_state(state)]
            entries[state] = self.parts.tree.unflatten(backend.from_host(arrays))
        return check_state(self.parts, entries)


def content_of(optimizer: OptimizerBase) -> Container:
    """All that goes on, as it is now; on the CPU the arrays themselves."""
    own, kind = Arrays(optimizer), type(optimizer)
    settings = own.parts.settings
    options = {name: value for name, value in settings.options.items() if name != "comm"}
    arrays = {name: np.asarray(to_host(leaf)) for name, leaf in own.named.items()}
    title = kind.__name__
    if not kind.__module__.startswith("numadam."):
        title = f"{kind.__module__}.{kind.__qualname__}"
    meta = {
        "numadam": __version__,
        "class": title,
        "rule": kind.rule.name,
        **kind.rule.written_formula,
        "params": own.structure.json,
        "group_of": own.groups(),
        "counters": {name: value.tolist() for name, value in own.parts.backend.counters.items()},
        **nesting.options_to_json(settings.lr, options, arrays),
    }
    return Container(KIND, meta, arrays)


def fit(
    optimizer: OptimizerBase, content: Container
) -> tuple[Mapping[str, Any], Mapping[str, Any], list[Any], Writes]:
    """Check everything in a file against an optimiser; arguments of `Backend.load`.

    Counters, state, parameters, and writes of all else: frozen arrays, hyperparameters, schedules.
    """
    arrays, meta = Arrays(optimizer), content.meta
    if meta["rule"] != optimizer.rule.name:
        raise ValueError(
            f"was saved by {meta['class']}, and this optimiser is {type(optimizer).__name__}. "
            "Make one of that class, or use numadam.load."
        )
    here, there = optimizer.rule.written_formula.get("formula"), meta.get("formula")
    if here != there:
        raise ValueError(
            f"was saved by a rule {meta['rule']} of another formula, or by another version of "
            f"Python: {there} in the file, {here} here. Load it with the formula that wrote it."
        )
    values = dict(nesting.values_in(arrays.structure.json))
    for name, value in nesting.values_in(meta["params"]):
        if name in values and repr(values[name]) != repr(value):
            raise ValueError(f"{name}: is {value!r} in the file, {values[name]!r} in params.")
    others = _fit_settings(optimizer, content)
    arrays.check(content.arrays)
    if meta["group_of"] != arrays.groups():
        raise ValueError(
            "groups: running products lie group by group, and the parameters come in another "
            "order here. Make the optimiser with that of the file, or use numadam.load."
        )
    others += _fit_frozen(arrays, content)
    return *arrays.state(content), arrays.params(content), others


def write_from_host(array: Any, values: np.ndarray) -> Callable[[], None]:
    """A write of NumPy's values into an array of NumPy or CuPy; they are on its GPU already."""
    if not is_cupy(array):
        return partial(assign, array, ..., values)
    import cupy

    with array.device:
        here = cupy.asarray(values)

    def write() -> None:
        with array.device:
            array[...] = here

    return write


def _fit_frozen(arrays: Arrays, content: Container) -> Iterator[Callable[[], Any]]:
    """Writes of frozen arrays; those that are read-only have to be right."""
    for name in arrays.structure.leaves.keys() - {*arrays.active}:
        here, there = arrays.named[name], content.arrays[name]
        if is_cupy(here) or here.flags.writeable:
            yield write_from_host(here, there)
        elif here.tobytes() != there.tobytes():
            raise ValueError(f"{name}: is frozen, read-only, and has other values in the file.")


def _fit_settings(optimizer: OptimizerBase, content: Container) -> Writes:
    """Writes that take over hyperparameters, lr, and the state of schedules."""
    lr, its = nesting.options_from_json(content.meta, content.arrays)
    options, settings = _complete(type(optimizer), its), parts_of(optimizer).settings
    changed, pairs = settings.copy(), list[Plateaus]()
    for name, now in settings.options.items():
        new = _match(now, options[name], name, pairs)
        # a load keeps the ranks and the loop that are here
        if new is not now and name != "comm" and not changed.set(name, new):
            raise ValueError(
                f"{name}: is {brief(options[name])} in the file, {brief(now)} here, and cannot be "
                "changed. Make the optimiser with the options of the file, or use numadam.load."
            )
    rate = _match(settings.lr, lr, "lr", pairs)
    writes: Writes = [partial(vars(old).update, vars(new)) for old, new in pairs]
    if rate is not settings.lr and not changed.set("lr", rate):
        raise ValueError(
            "lr: step sizes of their own for arrays take another loop. Make the optimiser with "
            "those of the file, or use numadam.load."
        )
    return [*settings.writes_from(changed), *writes]


#: A schedule with a state that stays, for users hold it, and that of the file, whose state it gets.
Plateaus = tuple[ReduceOnPlateau, ReduceOnPlateau]


def _match(now: Any, saved: Any, title: str, pairs: list[Plateaus]) -> Any:
    """`now` where it says what the file says, else what the file has; adds to `pairs`."""
    one_kind = isinstance(now, ReduceOnPlateau) and isinstance(saved, ReduceOnPlateau)
    if not one_kind and not nesting.equal(now, saved):
        return saved
    for pair in zip(nesting.plateaus_in(now), nesting.plateaus_in(saved), strict=True):
        if any(old is pair[0] and new is not pair[1] for old, new in pairs):
            raise ValueError(
                f"{title}: one ReduceOnPlateau of this optimiser is two in the file. Make "
                "the optimiser with as many, or use numadam.load."
            )
        pairs.append(pair)
    return now


def _complete(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a class; one that is newer than the file has its default."""
    usual = default_options(kind)
    if unknown := options.keys() - usual.keys():
        raise ValueError(f"{min(unknown)}: is no option of {kind.__name__} in this numadam.")
    return {name: options.get(name, usual[name]) for name in usual if name != "lr"}


def new_optimizer(kind: type[Kind], content: Container, xp: Any) -> Kind:
    """An optimiser of this class with new arrays of `xp`, NumPy or CuPy, that goes on."""
    if content.meta["rule"] != kind.rule.name:
        raise ValueError(f"the rule of {kind.__name__} is {kind.rule.name}.")
    lr, its = nesting.options_from_json(content.meta, content.arrays)
    options = _complete(kind, its)

    def make_array(name: str, axes: Any) -> Any:
        array = content.arrays[name]
        if xp is np and options["bounds"] is not None:
            array = array.copy()  # the constructor moves it into the bounds
        elif xp is not np:
            array = xp.asarray(array)
        return nesting.laid_out(array, axes, xp)

    optimizer = kind.__new__(kind)
    params = nesting.rebuild(content.meta["params"], make_array)
    optimizer._setup(params, lr, *op.parted(options))  # noqa: SLF001  # a new one
    arrays = Arrays(optimizer)
    arrays.check(content.arrays)
    moved = options["bounds"] is not None  # by the constructor
    params = arrays.params(content) if moved else None
    arrays.parts.backend.load(*arrays.state(content), params)
    return optimizer

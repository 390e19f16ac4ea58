"""State of an optimiser: arrays with the names of its parameters, and copies to roll back to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from numadam._arrays import formatting
from numadam._arrays.checks import refuse_counts, refuse_negative
from numadam._arrays.interop import to_host
from numadam._backend import Backend
from numadam._core.parts import Parts, parts_of
from numadam._core.plan import ROW_COUNTS

if TYPE_CHECKING:
    from numadam._optimizer.base import OptimizerBase


# --- state of an optimiser as a mapping ----------------------------------------------------------


class State(MutableMapping[str, Any]):
    """State arrays by name, and ``"t"``, the steps taken.

    Reading returns views of the state in new containers: write into an array
    (``opt.state["m"]["w"][...] = x``) or assign a whole entry. An assignment is checked first and
    then copied, all of it or nothing.
    """

    def __init__(self, optimizer: OptimizerBase) -> None:
        self._optimizer = optimizer

    def __getitem__(self, name: str) -> Any:
        parts = parts_of(self._optimizer)
        counters = parts.backend.counters
        if name in counters:
            return counters[name]
        return parts.tree.unflatten([view.view() for view in parts.backend.state[name]])

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise KeyError(f"{name!r}: this optimiser's state is {list(self)}.")
        parts = parts_of(self._optimizer)
        with parts.lock:
            parts.backend.load(*_checked(parts, {name: value}))

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"state[{name!r}] cannot be deleted: the next step needs it.")

    def _ipython_key_completions_(self) -> list[str]:
        """Names after ``opt.state["`` in IPython."""
        return list(self)

    def __dir__(self) -> list[str]:
        """Attributes, without methods that would delete an entry."""
        return [name for name in super().__dir__() if name not in ("clear", "pop", "popitem")]

    def __iter__(self) -> Iterator[str]:
        backend = parts_of(self._optimizer).backend
        yield from backend.counters
        yield from backend.state

    def __len__(self) -> int:
        return len(list(iter(self)))

    def copy(self) -> dict[str, Any]:
        """Copies of all entries at one step; assign them to `state` later to restore it."""
        tree, _, backend, lock = parts_of(self._optimizer)
        with lock:
            saved = {name: counter.copy() for name, counter in backend.counters.items()}
            for name, views in backend.state.items():
                saved[name] = tree.unflatten([view.copy(order="K") for view in views])
            return saved

    def update(self, saved: Mapping[str, Any], /) -> None:  # type: ignore[override]  # no pairs, no keywords
        """Assign a complete saved state."""
        if not isinstance(saved, Mapping):
            raise TypeError(
                f"state: expected a mapping such as opt.state, got {type(saved).__name__}."
            )
        parts = parts_of(self._optimizer)
        if _is_live(parts, saved):
            raise ValueError(
                "state: is this optimiser's own, and has changed with it: nothing would be "
                "restored. Keep opt.state.copy(), or opt.snapshot() for opt.restore."
            )
        with parts.lock:
            parts.backend.load(*check_state(parts, saved))

    def __repr__(self) -> str:
        """The steps taken and the names of the arrays.

        Examples
        --------
        >>> import numpy as np
        >>> import numadam as na
        >>> na.Adam(np.zeros(3)).state
        State(t=0, arrays: m, v)
        """
        backend = parts_of(self._optimizer).backend
        return f"State(t={backend.t}, arrays: {', '.join(backend.state) or 'none'})"

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        backend = parts_of(self._optimizer).backend
        counters = [(name, str(value.tolist())) for name, value in backend.counters.items()]
        arrays = [(name, formatting.outline(leaves)) for name, leaves in backend.state.items()]
        return formatting.table(f"State of {type(self._optimizer).__name__}", [*counters, *arrays])


def _is_live(parts: Parts, saved: Mapping[str, Any]) -> bool:
    """Whether all entries are views of the state that they are to be loaded into."""
    tree, _, backend, _ = parts
    if isinstance(saved, State):
        return parts_of(saved._optimizer).backend is backend  # noqa: SLF001  # this module's own class
    if not backend.is_host or any(saved.get(k) is not own for k, own in backend.counters.items()):
        return False
    pairs = [
        pair
        for name, views in backend.state.items()
        for pair in zip(tree.flatten(saved.get(name), name), views, strict=True)
    ]
    return all(isinstance(a, np.ndarray) and np.may_share_memory(a, b) for a, b in pairs if b.size)


#: Counters and arrays for the back end to load.
Checked = tuple[dict[str, Any], dict[str, list[Any]]]


def check_state(parts: Parts, saved: Mapping[str, Any]) -> Checked:
    """Check all entries of a saved state."""
    known = {*parts.backend.counters, *parts.backend.state}
    if set(saved) != known:
        raise ValueError(
            f"state: expected the entries {sorted(known)}, got {sorted(saved)}. Was it saved "
            "by an optimiser of another kind or with other options?"
        )
    return _checked(parts, saved)


def _checked(parts: Parts, entries: Mapping[str, Any]) -> Checked:
    known, arrays = parts.backend.counters, {}
    counters = {k: _counter(k, value, known[k]) for k, value in entries.items() if k in known}
    for name in [name for name in entries if name not in known]:
        title = f"state[{name!r}]"
        names, leaves = parts.tree.names(title), parts.tree.flatten(entries[name], title)
        arrays[name] = parts.backend.check_arrays(title, leaves, name)
        if name == ROW_COUNTS:
            for array, where in zip(arrays[name], names, strict=True):
                refuse_counts(to_host(array), where)
        if name in parts.settings.rule.nonnegative:
            refuse_negative(arrays[name], names)
    return counters, arrays


def _counter(name: str, value: Any, now: Any) -> Any:
    """Validate a counter or a running product to be loaded."""
    if now.dtype.kind == "f":
        products = np.asarray(value, dtype=float)
        if products.shape != now.shape or not np.all(np.isfinite(products)):
            raise ValueError(
                f"state[{name!r}]: expected finite numbers of shape {now.shape}, got {value!r}."
            )
        return products
    return check_steps(f"state[{name!r}]", value, "steps" if name == "t" else "calls")


def check_steps(name: str, value: Any, counted: str = "steps") -> int:
    """Return a number of steps or calls as an int, or say what is wrong with it."""
    try:
        t = int(value)
        whole = 0 <= t < 2**53 and bool(t == value)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(
            f"{name}: expected a whole number of {counted} >= 0 and < 2**53, got {value!r}."
        )
    return t


# --- snapshot of an optimiser --------------------------------------------------------------------


class Snapshot:
    """Parameters, state and counters of one optimiser, as `Optimizer.snapshot` has copied them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.save, self.restore = backend.snapshot_buffer()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "Snapshot: is for its optimiser alone, and cannot be copied or pickled. Pickle or copy "
            "the optimiser."
        )

    def __repr__(self) -> str:
        """The optimiser's rule.

        Examples
        --------
        >>> import numpy as np
        >>> import numadam as na
        >>> na.Adam(np.zeros(3)).snapshot()
        Snapshot(adam)
        """
        return f"Snapshot({self._backend.settings.rule.name})"


def checked(snapshot: Any, name: str, backend: Backend) -> Snapshot:
    """The argument `name` as a snapshot of this back end, or an error."""
    if not isinstance(snapshot, Snapshot):
        got = type(snapshot).__name__
        raise TypeError(f"{name}: expected a snapshot, from opt.snapshot(), got {got}.")
    if snapshot._backend.state is not backend.state:  # noqa: SLF001  # this module's own class
        raise ValueError(
            f"{name}: is a snapshot of another optimiser. Make one with opt.snapshot()."
        )
    return snapshot

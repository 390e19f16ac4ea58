"""Snapshot of an optimiser: a copy in memory, to which it can be rolled back."""

from __future__ import annotations

from typing import Any, NoReturn

from numadam._backend import Backend


class Snapshot:
    """Parameters, state and counters of one optimiser, as `Optimizer.snapshot` has copied them."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._buffer = backend, backend.snapshot_buffer()

    def save(self) -> None:
        """Copy all of the optimiser into this snapshot."""
        self._buffer.save()

    def restore(self) -> None:
        """Copy all of this snapshot into the optimiser."""
        self._buffer.restore()

    def check(self, name: str, backend: Backend) -> None:
        """Refuse it for another optimiser than that which it was made of."""
        if self._backend is not backend:
            raise ValueError(
                f"{name}: is a snapshot of another optimiser. Make one with opt.snapshot()."
            )

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
    snapshot.check(name, backend)
    return snapshot

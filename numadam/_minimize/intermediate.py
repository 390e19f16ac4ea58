"""Iterates for callbacks, whose f is evaluated where it is first read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from scipy.optimize import OptimizeResult

_LEFT = (
    "fun: f was not evaluated at this iterate, since nothing asked for it. Read `fun` within the "
    "callback, or pass track_best=True."
)


class Intermediate(OptimizeResult):  # type: ignore[misc]  # SciPy has no types
    """An iterate of a run: x, fun, nit, grad_norm, lr.

    `fun` is evaluated where it is first read, by name or among all entries, as long as the run is
    at this iterate. Later it is known or refused: the user may have written to x meanwhile.
    """

    def __init__(self, read_f: Callable[[], float], **entries: Any) -> None:
        super().__init__(**entries)
        self._set_reader(read_f)

    def _set_reader(self, read_f: Callable[[], float] | None) -> None:
        # an ordinary attribute would be an entry of the result
        object.__setattr__(self, "_read_f", read_f)

    def leave(self) -> None:
        """Evaluate no f from now on: the run leaves this iterate."""
        self._set_reader(None)

    def complete(self) -> None:
        """Evaluate f where that is possible and not done."""
        if self._read_f is not None and not dict.__contains__(self, "fun"):
            self["fun"] = self._read_f()

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or (name == "fun" and self._read_f is not None)

    def __missing__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(_LEFT if name == "fun" else name)
        self.complete()
        return dict.__getitem__(self, name)

    def __getattr__(self, name: str) -> Any:
        if name != "fun":
            return super().__getattr__(name)
        if name not in self:
            raise AttributeError(_LEFT)
        return self[name]  # a KeyError of the user's comes through

    def get(self, name: str, default: Any = None) -> Any:
        """The entry of a name, as of a dict."""
        return self[name] if name in self else default  # noqa: SIM401  # this is the method itself

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy is a plain OptimizeResult."""
        self.complete()
        return OptimizeResult, (dict(self),)


def _completed(name: str) -> Callable[..., Any]:
    """The inherited method, which needs all entries."""
    inherited = getattr(OptimizeResult, name)

    @functools.wraps(inherited)
    def method(self: Intermediate, *args: Any) -> Any:
        self.complete()
        return inherited(self, *args)

    return method


for _name in ("__eq__", "__iter__", "__len__", "__repr__", "copy", "items", "keys", "values"):
    setattr(Intermediate, _name, _completed(_name))

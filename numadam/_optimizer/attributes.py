"""Options as attributes: those that may be changed later, and those that may not."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, TypeVar, overload

from numadam._core.docstrings import parameters
from numadam._core.hyper import Schedule
from numadam._core.parts import parts_of
from numadam._optimizer.base import OptimizerBase

Kind = TypeVar("Kind", bound=type)


class hyper:
    """A float hyperparameter, or a callable of the steps taken; checked when set."""

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> hyper: ...
    @overload
    def __get__(self, instance: OptimizerBase, owner: type) -> Any: ...
    def __get__(self, instance: OptimizerBase | None, owner: type) -> Any:
        return self if instance is None else parts_of(instance).settings.options[self._name]

    def __set__(self, instance: OptimizerBase, value: float | Schedule | None) -> None:
        parts = parts_of(instance)
        with parts.lock:
            parts.settings.set(self._name, value)


class fixed:
    """An option that is set when the optimiser is made, and read only after."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else parts_of(instance).settings.options[self._name]

    def __set__(self, instance: Any, value: object) -> None:
        raise AttributeError(f"{self._name}: cannot be changed: make a new optimiser instead.")


def with_options(kind: Kind, names: Iterable[str], changeable: Container[str]) -> Kind:
    """Give a class its options as attributes, with the texts of its docstring, for `help`."""
    texts = parameters(kind.__doc__)
    for name in names:
        option = hyper(name) if name in changeable else fixed(name)
        of_base = getattr(kind, name, option).__doc__
        option.__doc__ = "\n".join(texts[name]) if name in texts else of_base
        setattr(kind, name, option)
    return kind

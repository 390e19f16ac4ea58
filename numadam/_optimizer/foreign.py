"""Attributes that optimisers of other libraries have: missing here, with the name of ours."""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Iterable
from typing import Any, TypeVar

from numadam._core.synonyms import FOREIGN_ATTRIBUTES, attribute_hint

Kind = TypeVar("Kind", bound=type)


class _Foreign:
    """An attribute that is missing, and says what it is called here.

    Not `__getattr__`: with it every attribute is found more slowly, which a step feels (0.1 us).
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(missing(owner, self._name))


class OptimizerType(ABCMeta):
    """Type of optimiser classes: `dir` without foreign names, as completion asks it too.

    A class may be abstract besides.
    """

    def __dir__(cls) -> list[str]:
        return own_names(cls, super().__dir__())


def with_foreign_names(kind: Kind) -> Kind:
    """Decorator of a class: attributes of other libraries are missed by their names."""
    for name in FOREIGN_ATTRIBUTES:
        setattr(kind, name, _Foreign(name))
    return kind


def own_names(kind: type, names: Iterable[str]) -> list[str]:
    """Names without the foreign ones."""
    return [n for n in names if not isinstance(inspect.getattr_static(kind, n, None), _Foreign)]


def missing(kind: type, name: str, to: str = "") -> str:
    """Error text for an attribute that a class does not have."""
    hint = attribute_hint(name, own_names(kind, dir(kind)))
    return f"{kind.__name__} has no attribute {name!r}{to}. {hint}".rstrip()

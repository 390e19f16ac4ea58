"""Attributes of an optimiser: its options, and names that are other libraries'."""

from __future__ import annotations

import copy
import inspect
from abc import ABCMeta
from collections.abc import Container, Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

import numpy as np

from numadam._arrays.formatting import parameters
from numadam._core.hyper import Schedule
from numadam._core.options import DEFAULTS, named_options
from numadam._core.parts import parts_of
from numadam._core.synonyms import FOREIGN_ATTRIBUTES, attribute_hint

if TYPE_CHECKING:
    from numadam._optimizer.base import OptimizerBase

Kind = TypeVar("Kind", bound=type)

# --- options -------------------------------------------------------------------------------------


def read_only(value: Any) -> Any:
    """A copy of an option that cannot be written to: no step would see the change."""
    if isinstance(value, dict):
        clone = copy.copy(value)  # of its class
        clone.update({key: read_only(entry) for key, entry in value.items()})
        return MappingProxyType(clone)
    if type(value) in (list, tuple):
        return tuple([read_only(entry) for entry in value])
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


class option:
    """An option of an optimiser."""

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: OptimizerBase, owner: type) -> Any: ...
    def __get__(self, instance: OptimizerBase | None, owner: type) -> Any:
        return self if instance is None else parts_of(instance).settings.options[self._name]


class hyper(option):
    """A float hyperparameter, or a callable of the steps taken; checked when set."""

    def __set__(self, instance: OptimizerBase, value: float | Schedule | None) -> None:
        parts = parts_of(instance)
        with parts.lock:
            parts.settings.set(self._name, value)


class fixed(option):
    """An option that is set when the optimiser is made, and read only after."""

    def __get__(self, instance: Any, owner: type) -> Any:
        return read_only(super().__get__(instance, owner))

    def __set__(self, instance: Any, value: object) -> None:
        raise AttributeError(f"{self._name}: cannot be changed: make a new optimiser instead.")


def with_options(kind: Kind, names: Iterable[str], changeable: Container[str]) -> Kind:
    """Give a class its options as attributes, with the texts of its docstring, for `help`."""
    texts = parameters(kind.__doc__)
    for name in names:
        attribute = hyper(name) if name in changeable else fixed(name)
        of_base = getattr(kind, name, attribute).__doc__
        attribute.__doc__ = "\n".join(texts[name]) if name in texts else of_base
        setattr(kind, name, attribute)
    return kind


# --- attributes that optimisers of other libraries have ------------------------------------------


class _Foreign:
    """An attribute that is missing, and says what it is called here.

    Not `__getattr__`: with it every attribute is found more slowly, which a step feels (0.1 us).
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(missing(owner, self._name))


class OptimizerType(ABCMeta):
    """Type of optimiser classes: what completion asks for, `dir` and signature; may be abstract."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of ``__init__``, with the options of every rule by name."""
        if "__signature__" in vars(cls):  # a user's own
            return cast(inspect.Signature, vars(cls)["__signature__"])
        if cls.__init__ is object.__init__:  # type: ignore[misc]  # of a class without rule
            return inspect.Signature()
        defaults = {**DEFAULTS, "decoupled": cls.rule.decoupled}  # type: ignore[attr-defined]  # of all with rule
        return named_options(cls.__init__.__get__(cls), defaults)  # type: ignore[misc]  # of a class

    def __dir__(cls) -> list[str]:
        """Names that `help` shows: the docstring of a rule lists options and inherited members.

        `dir` of an optimiser and of `Optimizer` has all names.
        """
        names = own_names(cls, super().__dir__())
        if not hasattr(cls, "rule"):
            return names
        of_users = [base for base in cls.__mro__ if not base.__module__.startswith("numadam.")]
        added = {name for base in of_users[:-1] for name in vars(base) if name != "rule"}
        shown = {"__doc__", "__init__", "__module__", *added}
        return [n for n in names if n in shown and not isinstance(getattr(cls, n), option)]


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
    hint = attribute_hint(name, own_names(kind, type.__dir__(kind)))
    return f"{kind.__name__} has no attribute {name!r}{to}. {hint}".rstrip()

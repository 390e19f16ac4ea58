"""Entries of a result as documented attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

Value = TypeVar("Value")


class ResultType(type):
    """Type of a result; completion lists the names of its class too, here without a dict's."""

    def __dir__(cls) -> list[str]:
        hidden = {name for name in dir(dict) if not name.startswith("_")}
        return [name for name in super().__dir__() if name not in hidden]


class entry(Generic[Value]):
    """Decorator: an entry of a result as an attribute, with the type and text of a method.

    The method is never called: it says name, type and meaning, for `help` and for completion.
    """

    def __init__(self, method: Callable[[Any], Value]) -> None:
        self.__doc__ = method.__doc__
        self._name = method.__name__
        self.type: str = str(method.__annotations__["return"])

    # `object`: a result is a dict, but not for those who have scipy-stubs installed
    @overload
    def __get__(self, result: None, owner: type) -> Self: ...
    @overload
    def __get__(self, result: object, owner: type) -> Value: ...
    def __get__(self, result: Any, owner: type) -> Any:
        if result is None:
            return self
        try:
            return result[self._name]
        except KeyError:
            raise missing(result, self._name) from None

    def __set__(self, result: Any, value: Value) -> None:
        result[self._name] = value


#: Entries of results of SciPy, and of `minimize` alone: what to do without.
_WITHOUT = {
    **dict.fromkeys(
        ("hess_inv", "hess", "nhev"),
        " Adam forms no second derivatives; the errors of a fit follow from differences of the "
        "gradient at x.",
    ),
    "state": " A run of many problems goes on from a file: pass checkpoint=path.",
    "history": " minimize records one problem, and minimize_many none.",
    "lr": ' Only lr="auto" puts the rate that it found there.',
    "averaged": " Pass ema=0.999 for an average.",
}


def missing(result: dict[str, Any], name: str) -> AttributeError:
    """The error at an attribute that a result has not; Python adds the nearest name."""
    text = f"{name}: this result has none; it has {', '.join(result)}.{_WITHOUT.get(name, '')}"
    return AttributeError(text, name=name, obj=result)


def no_such_key(result: dict[str, Any], key: object) -> KeyError:
    """The error at a key that a result has not."""
    if isinstance(key, int):
        return KeyError(f"{key}: a result is a dict; problem {key} is at res.x[{key}] and so on.")
    return KeyError(key)


def entries(kind: type) -> dict[str, entry[Any]]:
    """The entries that a class of results declares, in their order."""
    return {name: one for name, one in vars(kind).items() if isinstance(one, entry)}

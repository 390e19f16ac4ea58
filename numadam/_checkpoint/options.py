"""Options, learning rates and schedules as JSON, and back.

Plain values are JSON's. All else is an object with one key, the kind: ``{"tuple": [...]}``,
``{"dict": [[key, value], ...]}``, ``{"bounds": [lo, hi]}``, ``{"array": name}``,
``{"schedule": k}``. Schedules lie in a list of their own, so that one used twice is one object
again.
"""

from __future__ import annotations

import numbers
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from numadam._arrays.interop import as_view, is_array, to_host
from numadam._checkpoint import schedules
from numadam._core.half import as_storage
from numadam._settings.bounds import Box, as_numbers

#: Containers that are rebuilt as they were. Other mappings and sequences become plain ones.
CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "OrderedDict": OrderedDict,
}
#: What an optimiser offers who has a function as lr.
_INSTEAD = ", or a number and opt.step(g, lr=f(opt.t))"


def options_to_json(
    lr: Any, options: Mapping[str, Any], arrays: dict[str, np.ndarray], instead: str = _INSTEAD
) -> dict[str, Any]:
    """Learning rate and options as JSON: `lr`, `options` and `schedules`.

    Parameters
    ----------
    lr : float, schedule, array or nesting
    options : mapping
        By name; those at their default too, as a later version may have another default.
    arrays : dict
        Bounds and step sizes per element are added to it, in float64, by name
        (``"options/bounds/0"``).

    instead : str
        What else there is for a function as lr, at the end of the sentence that refuses it.

    Raises
    ------
    TypeError
        For a function, and for an object of an unknown type; the message names the option.
    """
    encoder = _Encoder(arrays, instead)
    rate = encoder.encode(lr, "lr")
    values = {name: encoder.encode(value, name) for name, value in options.items()}
    return {"lr": rate, "options": values, "schedules": encoder.schedules}


def options_from_json(
    saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[Any, dict[str, Any]]:
    """Learning rate and options of what `options_to_json` returned; schedules are new objects.

    Raises
    ------
    TypeError, ValueError, LookupError
        Where it is nothing that `options_to_json` writes. The options themselves are checked by
        who takes them.
    """
    made: list[Any] = []
    for name, fields in saved["schedules"]:
        values = {key: _decode(value, arrays, made) for key, value in fields.items()}
        made.append(schedules.from_fields(name, values))
    lr = _decode(saved["lr"], arrays, made)
    return lr, {name: _decode(value, arrays, made) for name, value in saved["options"].items()}


class _Encoder:
    def __init__(self, arrays: dict[str, np.ndarray], instead: str) -> None:
        self.schedules: list[Any] = []
        self._arrays, self._instead = arrays, instead
        self._known: dict[int, int] = {}  # place in `schedules` by identity

    def encode(self, value: Any, title: str) -> Any:
        """The value as JSON; `title` is what the user calls it."""
        value = _plain(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return "".join(value)  # of its own type, and not of a subclass
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        if callable(value):
            return {"schedule": self._schedule(value, title)}
        if hasattr(value, "lb") and hasattr(value, "ub"):
            ends = (self.encode(getattr(value, end), f"{title}.{end}") for end in ("lb", "ub"))
            return {"bounds": list(ends)}
        if isinstance(value, np.generic) or is_array(as_view(value)):
            return self._array(value, title)
        return self._container(value, title)

    def _schedule(self, value: Any, title: str) -> int:
        if not schedules.is_known(value):
            name = getattr(value, "__qualname__", type(value).__qualname__)
            instead = self._instead if title == "lr" else ""
            raise TypeError(
                f"{title}: a function of the user's cannot be saved ({name}). Use a schedule of "
                f"numadam.schedules{instead}."
            )
        if id(value) not in self._known:
            fields = {
                name: self.encode(field, f"{title}.{name}")
                for name, field in schedules.fields_of(value).items()
            }
            self._known[id(value)] = len(self.schedules)
            self.schedules.append([type(value).__name__, fields])
        return self._known[id(value)]

    def _array(self, value: Any, title: str) -> Any:
        array = as_numbers(np, to_host(as_view(value)), title)
        if array.ndim == 0:
            return float(array)
        option = title.partition("[")[0].partition(".")[0]
        begin = f"options/{option}/"
        name = f"{begin}{sum(one.startswith(begin) for one in self._arrays)}"
        self._arrays[name] = array
        return {"array": name}

    def _container(self, value: Any, title: str) -> Any:
        if isinstance(value, Mapping):
            kind = "OrderedDict" if type(value) is OrderedDict else "dict"
            for key in value:
                if type(key) not in (str, int):
                    raise TypeError(f"{title}: the key {key!r} cannot be saved, only str and int.")
            pairs = [[key, self.encode(one, f"{title}[{key!r}]")] for key, one in value.items()]
            return {kind: pairs}
        if not isinstance(value, (list, tuple)):
            raise TypeError(
                f"{title}: a {type(value).__qualname__} cannot be saved. Use numbers, NumPy "
                "arrays, and lists, tuples and dicts of them."
            )
        items = [self.encode(one, f"{title}[{k}]") for k, one in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items


def _decode(value: Any, arrays: Mapping[str, np.ndarray], made: list[Any]) -> Any:
    if isinstance(value, list):
        return [_decode(one, arrays, made) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "schedule":
        return made[content]
    if kind == "array":
        return arrays[content]
    if kind == "bounds":
        lower, upper = content
        return Box(_decode(lower, arrays, made), _decode(upper, arrays, made))
    if kind == "tuple":
        return tuple(_decode(one, arrays, made) for one in content)
    if kind not in ("dict", "OrderedDict"):
        raise ValueError(f"{kind!r} is no kind of value.")
    return CONTAINERS[kind]((key, _decode(one, arrays, made)) for key, one in content)


def equal(one: Any, other: Any) -> bool:
    """Whether two options say the same; a list is as good as a tuple.

    Schedules of one kind are equal where their arguments are, whatever their state.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        same = list(one) == list(other)  # of two groups that fit, the later one wins
        return same and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    if hasattr(one, "lb") and hasattr(other, "lb"):
        return equal(one.lb, other.lb) and equal(one.ub, other.ub)
    if schedules.is_known(one) and type(one) is type(other):
        return equal(schedules.arguments_of(one), schedules.arguments_of(other))
    if is_array(one) or is_array(other):
        return np.array_equal(to_host(one), to_host(other))
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    """The dtype of `state_dtype` as a text."""
    return as_storage(value, "").name if isinstance(value, (type, np.dtype)) else value

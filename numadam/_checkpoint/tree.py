"""Trees, options and schedules as JSON and arrays, and back."""

from __future__ import annotations

import dataclasses
import numbers
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from numadam import schedules
from numadam._arrays.checks import memory_order
from numadam._arrays.interop import as_view, is_array, to_host
from numadam._checkpoint.container import name_fault
from numadam._settings.bounds import Box, as_numbers
from numadam.schedules import ReduceOnPlateau

# --- schedules of `numadam.schedules` by name and numbers ----------------------------------------

#: The schedules that a file may name.
KINDS = {name: getattr(schedules, name) for name in schedules.__all__}


def is_known(value: object) -> bool:
    """Whether an object is one of our schedules; one of a subclass may compute anything."""
    return KINDS.get(type(value).__name__) is type(value)


def arguments_of(schedule: Any) -> dict[str, Any]:
    """Arguments of a schedule without its state, by name."""
    return {
        field.name: getattr(schedule, field.name)
        for field in dataclasses.fields(schedule)
        if field.init
    }


def plateaus_in(value: Any) -> Iterator[ReduceOnPlateau]:
    """The schedules with a state in an option, in the order of its nesting."""
    if isinstance(value, ReduceOnPlateau):
        yield value
    elif is_known(value):
        yield from plateaus_in(list(arguments_of(value).values()))
    elif isinstance(value, Mapping):
        yield from plateaus_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from plateaus_in(entry)


def from_fields(name: str, saved: dict[str, Any]) -> Any:
    """The schedule with these arguments and this state; both are checked.

    An argument that the file is too old to have gets its default.
    """
    if name not in KINDS:
        raise ValueError(f"there is no schedule {name!r} in numadam.schedules.")
    fields = dataclasses.fields(KINDS[name])
    state = [field.name for field in fields if not field.init]
    made = KINDS[name](**{key: value for key, value in saved.items() if key not in state})
    if isinstance(made, ReduceOnPlateau):
        made.set_state(**{key: saved[key] for key in state})
    return made


# --- options -------------------------------------------------------------------------------------
# Plain values are JSON's. All else is an object with one key, the kind: ``{"tuple": [...]}``,
# ``{"dict": [[key, value], ...]}``, ``{"bounds": [lo, hi]}``, ``{"array": name}``,
# ``{"schedule": k}``. Schedules lie in a list of their own, so that one used twice is one object
# again.

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

    Options at their default too, as a later version may have another one. Bounds and step sizes per
    element are added to `arrays`, in float64, by name (``"options/bounds/0"``). `instead` ends the
    sentence that refuses a function as lr.
    """
    encoder = _Encoder(arrays, instead)
    rate = encoder.encode(lr, "lr")
    values = {name: encoder.encode(value, name) for name, value in options.items()}
    return {"lr": rate, "options": values, "schedules": encoder.schedules}


def options_from_json(
    saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[Any, dict[str, Any]]:
    """Learning rate and options of what `options_to_json` returned; schedules are new objects."""
    made: list[Any] = []
    for name, fields in saved["schedules"]:
        values = {key: _decode(value, arrays, made) for key, value in fields.items()}
        made.append(from_fields(name, values))
    lr = _decode(saved["lr"], arrays, made)
    return lr, {name: _decode(value, arrays, made) for name, value in saved["options"].items()}


class _Encoder:
    def __init__(self, arrays: dict[str, np.ndarray], instead: str) -> None:
        self.schedules: list[Any] = []
        self._arrays, self._instead = arrays, instead
        self._known: dict[int, int] = {}  # place in `schedules` by identity

    def encode(self, value: Any, title: str) -> Any:
        """The value as JSON; `title` is what the user calls it."""
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
        if not is_known(value):
            name = getattr(value, "__qualname__", type(value).__qualname__)
            instead = self._instead if title == "lr" else ""
            raise TypeError(
                f"{title}: a function of the user's cannot be saved ({name}). Use a schedule of "
                f"numadam.schedules{instead}."
            )
        if id(value) not in self._known:
            names = [field.name for field in dataclasses.fields(value)]  # of its state, too
            fields = {name: self.encode(getattr(value, name), f"{title}.{name}") for name in names}
            self._known[id(value)] = len(self.schedules)
            self.schedules.append([type(value).__name__, fields])
        return self._known[id(value)]

    def _array(self, value: Any, title: str) -> Any:
        array = as_numbers(np, to_host(as_view(value)), title)
        if array.ndim == 0:
            return float(array)
        option = title.partition("[")[0].partition(".")[0]
        begin = f"options/{option}/"
        name = f"{begin}{sum(other.startswith(begin) for other in self._arrays)}"
        self._arrays[name] = array
        return {"array": name}

    def _container(self, value: Any, title: str) -> Any:
        if isinstance(value, Mapping):
            kind = "OrderedDict" if type(value) is OrderedDict else "dict"
            for key in value:
                _check_key(key, title)
            pairs = [[key, self.encode(item, f"{title}[{key!r}]")] for key, item in value.items()]
            return {kind: pairs}
        if not isinstance(value, (list, tuple)):
            raise TypeError(
                f"{title}: a {type(value).__qualname__} cannot be saved. Use numbers, NumPy "
                "arrays, and lists, tuples and dicts of them."
            )
        items = [self.encode(item, f"{title}[{k}]") for k, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items


def _decode(value: Any, arrays: Mapping[str, np.ndarray], made: list[Any]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays, made) for item in value]
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
        return tuple(_decode(item, arrays, made) for item in content)
    if kind not in ("dict", "OrderedDict"):
        raise ValueError(f"{kind!r} is no kind of value.")
    return CONTAINERS[kind]((key, _decode(item, arrays, made)) for key, item in content)


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
    if is_known(one) and type(one) is type(other):
        return equal(arguments_of(one), arguments_of(other))
    if is_array(one) or is_array(other):
        return np.array_equal(to_host(one), to_host(other))
    return bool(one == other)


# --- nested parameters as names of arrays and as JSON --------------------------------------------
# An array's name is ``p`` and the JSON Pointer (RFC 6901) of its place: ``p/layers/0/w``. So a key
# with a slash has ``~1`` in its place, and a tilde is ``~0``. The structure is nested objects of
# one key, the kind: ``{"dict": [[key, node], ...]}``, ``{"list": [node, ...]}``, ``{"array":
# axes}`` with the axes from the longest stride to the shortest, ``{"value": x}`` for a leaf that
# is no array.

#: Types of leaves that are values of JSON.
_JSON_LEAVES = (type(None), bool, int, float, str)


class Structure:
    """Names and nesting of the arrays in `params`.

    `names` are by the path that `numadam._arrays.tree.Tree` has for them; `leaves` are the arrays
    by name, foreign ones as views; `json` is what `rebuild` takes.
    """

    def __init__(self, params: Any) -> None:
        self.names: dict[tuple[Any, ...], str] = {}
        self.leaves: dict[str, Any] = {}
        self.json = self._node(params, (), "p", "params")

    def _node(self, node: Any, path: tuple[Any, ...], name: str, title: str) -> Any:
        if type(node) in _JSON_LEAVES:
            return {"value": node}
        kind = type(node).__name__
        if CONTAINERS.get(kind) is not type(node):
            view = as_view(node)
            if is_array(view) or isinstance(view, np.generic):
                self.names[path], self.leaves[name] = name, view
                return {"array": list(memory_order(view))}
            kind = f"{type(node).__module__}.{type(node).__qualname__}"  # with a dot, unlike ours
        entries, keys, children = _one_level(node, title)
        titles = [f"{title}[{key!r}]" for key in keys]
        names = [f"{name}/{_token(key, title)}" for key in keys]
        if len({*names}) < len(names):
            raise TypeError(f"{title}: two of the keys {keys} would have one name in a file.")
        nodes = [
            self._node(child, (*path, entry), below, where)
            for child, entry, below, where in zip(children, entries, names, titles, strict=True)
        ]
        in_order = kind in ("list", "tuple")
        return {kind: nodes if in_order else list(map(list, zip(keys, nodes, strict=True)))}


def _one_level(node: Any, title: str) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Entries of a container as optree has them, their keys in a file, and the children."""
    if type(node) in (dict, OrderedDict):
        return list(node), list(node), list(node.values())
    if type(node) in (list, tuple):
        return range(len(node)), range(len(node)), node
    import optree

    if optree.tree_is_leaf(node, none_is_leaf=True):
        raise TypeError(
            f"{title}: only arrays, numbers, texts and None can be saved, and this is of type "
            f"{type(node).__qualname__}."
        )
    children, _, entries, _ = optree.tree_flatten_one_level(node, none_is_leaf=True)
    fields = getattr(type(node), "_fields", None)  # of a named tuple
    keys = entries if fields is None else fields
    if any(type(key) not in (str, int) for key in keys):
        keys = range(len(children))
    return entries, keys, children


def _check_key(key: Any, title: str) -> None:
    if type(key) not in (str, int):
        raise TypeError(f"{title}: the key {key!r} cannot be saved, only str and int.")


def _token(key: Any, title: str) -> str:
    """A key as a part of a JSON Pointer."""
    _check_key(key, title)
    token = str(key).replace("~", "~0").replace("/", "~1")
    fault = name_fault(f"p/{token}")
    if fault:
        raise TypeError(f"{title}: the key {key!r} cannot be saved: as a name it {fault}.")
    return token


def rebuild(node: Any, make_array: Callable[[str, Any], Any], name: str = "p") -> Any:
    """The nesting of a `Structure.json`; ``make_array(name, axes)`` is one of its arrays."""
    ((kind, content),) = node.items()
    if kind == "array":
        return make_array(name, content)
    if kind == "value":
        return content
    if kind not in CONTAINERS:
        raise ValueError(
            f"{name}: is in a {kind}, which numadam cannot make. Make the "
            "optimiser and call its `load`."
        )
    children = [
        (key, rebuild(child, make_array, f"{name}/{_token(key, name)}"))
        for key, child in _children(kind, content)
    ]
    return CONTAINERS[kind](
        [child for _, child in children] if kind in ("list", "tuple") else children
    )


def _children(kind: str, content: Any) -> Any:
    return enumerate(content) if kind in ("list", "tuple") else content


def values_in(node: Any, name: str = "p") -> Iterator[tuple[str, Any]]:
    """Names and values of the leaves of a `Structure.json` that are no arrays."""
    ((kind, content),) = node.items()
    if kind == "value":
        yield name, content
    elif kind != "array":
        for key, child in _children(kind, content):
            yield from values_in(child, f"{name}/{_token(key, name)}")


def laid_out(array: Any, axes: Any, xp: Any) -> Any:
    """A C-contiguous array as one whose axes lie in memory in this order; a copy where needed."""
    if sorted(axes) != list(range(array.ndim)):
        raise ValueError(f"{axes} are not the axes of an array of shape {array.shape}.")
    if axes == sorted(axes):
        return array
    return xp.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes).tolist())

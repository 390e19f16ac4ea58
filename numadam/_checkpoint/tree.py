"""Nested parameters as names of arrays and as JSON, and back.

An array's name is ``p`` and the JSON Pointer (RFC 6901) of its place: ``p/layers/0/w``. So a key
with a slash has ``~1`` in its place, and a tilde is ``~0``. The structure is nested objects of one
key, the kind: ``{"dict": [[key, node], ...]}``, ``{"list": [node, ...]}``, ``{"array": axes}`` with
the axes from the longest stride to the shortest, ``{"value": x}`` for a leaf that is no array.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from numadam._arrays.checks import memory_order
from numadam._arrays.interop import as_view, is_array, is_cupy, to_host
from numadam._checkpoint.header import name_fault
from numadam._checkpoint.options import CONTAINERS
from numadam._core.half import memory_dtype

#: Types of leaves that are values of JSON.
_JSON_LEAVES = (type(None), bool, int, float, str)


class Structure:
    """Names and nesting of the arrays in `params`.

    Attributes
    ----------
    names : dict of path to str
        The names by the path that `numadam._arrays.tree.Tree` has for them.
    leaves : dict of str to array
        The arrays by name, foreign ones as views.
    json : object
        What `rebuild` takes.

    Raises
    ------
    TypeError
        For a key or a leaf that has no form in a file; the message says where.
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


def _token(key: Any, title: str) -> str:
    """A key as a part of a JSON Pointer."""
    if type(key) not in (str, int):
        raise TypeError(f"{title}: the key {key!r} cannot be saved, only str and int.")
    token = str(key).replace("~", "~0").replace("/", "~1")
    fault = name_fault(f"p/{token}")
    if fault:
        raise TypeError(f"{title}: the key {key!r} cannot be saved: as a name it {fault}.")
    return token


def rebuild(node: Any, make_array: Callable[[str, Any], Any], name: str = "p") -> Any:
    """The nesting of a `Structure.json`; ``make_array(name, axes)`` is one of its arrays.

    Raises
    ------
    TypeError, ValueError
        Where it is no such structure, or has a container of another type.
    """
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


def host_array(array: Any) -> np.ndarray:
    """The numbers of an array in the host's memory: itself where it is there, else a copy."""
    if not is_cupy(array):
        return np.asarray(array)
    copied: np.ndarray = to_host(array.view(memory_dtype(array.dtype)))  # CuPy may lack bfloat16
    return copied.view(array.dtype)


def laid_out(array: Any, axes: Any, xp: Any) -> Any:
    """A C-contiguous array as one whose axes lie in memory in this order; a copy where needed."""
    if sorted(axes) != list(range(array.ndim)):
        raise ValueError(f"{axes} are not the axes of an array of shape {array.shape}.")
    if axes == sorted(axes):
        return array
    return xp.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes).tolist())

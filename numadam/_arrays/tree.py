"""Nested containers of arrays: flattened in one order, rebuilt, and their leaves named."""

from __future__ import annotations

import ctypes
import numbers
import operator
from collections.abc import Sequence
from typing import Any


def _is_flat(tree: Any) -> bool:
    """A plain list, tuple or dict of arrays: optree is not needed."""
    if type(tree) not in (list, tuple, dict):
        return False
    entries = tree.values() if type(tree) is dict else tree
    return all(hasattr(entry, "dtype") for entry in entries)


def same_objects(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether both hold the same objects, in the same order."""
    if len(one) < 64:
        return len(one) == len(other) and all(map(operator.is_, one, other))
    # comparing the pointers in the tuples: 3 us for 1000 objects instead of 14
    return _addresses(tuple(one)) == _addresses(tuple(other))


def _addresses(objects: tuple[Any, ...]) -> bytes:
    nbytes = len(objects) * ctypes.sizeof(ctypes.c_void_p)
    return ctypes.string_at(id(objects) + tuple.__basicsize__, nbytes)


def refuse_replaced(structure: Tree | Active, tree: Any, leaves: Sequence[Any], name: str) -> None:
    """Refuse containers in which an array was replaced by another object."""
    now = structure.flatten(tree, name)
    if same_objects(now, leaves):
        return
    title = structure.names(name)[list(map(operator.is_, now, leaves)).index(False)]
    raise ValueError(
        f"{title}: was replaced by another object, but the optimiser holds the array that was "
        f"there. Write into that: {title}[...] = x."
    )


class Tree:
    """The structure of `params`: the order of its leaves, and their names.

    It is that of an array or a nesting of lists, tuples, dicts, and what else optree knows.
    """

    def __init__(self, tree: Any) -> None:
        self._type = type(tree)
        self._keys: list[Any] = []
        self._spec: Any = None
        self.is_leaf = False
        if hasattr(tree, "dtype"):
            self._be_leaf()
        elif _is_flat(tree):
            self.kind, self.size = self._type.__name__, len(tree)
            self._keys = list(tree) if self._type is dict else list(range(len(tree)))
            self._key_set = dict.fromkeys(self._keys).keys()
        else:
            import optree

            self.kind = "nested"
            self._spec = optree.tree_structure(tree, none_is_leaf=True)
            self.size = self._spec.num_leaves
            if self._spec.is_leaf():
                self._be_leaf()

    def _be_leaf(self) -> None:
        self.kind, self.size, self.is_leaf = "leaf", 1, True

    def flatten(self, tree: Any, name: str) -> Sequence[Any]:
        """The leaves of a tree of this structure, in its order.

        Raises
        ------
        ValueError
            Where the structure is another; the message says which leaves are missing or extra.
            And where it changes meanwhile.
        """
        if self.kind == "leaf":
            return (tree,)
        try:
            if type(tree) is self._type and self.kind != "nested":
                if self.kind != "dict":
                    leaves = tuple(tree)  # another thread may change the list meanwhile
                    if len(leaves) == self.size:
                        return leaves
                elif tree.keys() == self._key_set:
                    return [tree[key] for key in self._keys]
            if self.kind == "nested":
                import optree

                nested, spec = optree.tree_flatten(tree, none_is_leaf=True)
                if spec == self._spec:
                    return nested
            problem = self._difference(tree, name)
        except (IndexError, KeyError, RuntimeError) as error:
            problem = (
                f"{name}: its containers changed while they were read. Pass some that no other "
                "thread changes meanwhile."
            )
            raise ValueError(problem) from error
        raise ValueError(problem)

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """A tree of this structure with these leaves."""
        if self.kind == "leaf":
            return leaves[0]
        if self.kind == "nested":
            return self._spec.unflatten(leaves)
        if self.kind == "dict":
            return dict(zip(self._keys, leaves, strict=True))
        return self._type(leaves)

    def paths(self) -> list[tuple[Any, ...]]:
        """The keys that lead to each leaf."""
        if self.kind == "leaf":
            return [()]
        if self.kind == "nested":
            return [tuple(path) for path in self._spec.paths()]
        return [(key,) for key in self._keys]

    def names(self, name: str) -> list[str]:
        """Expressions for the leaves, as a user writes them: ``params['w'][0]``."""
        if self.kind == "leaf":
            return [name]
        if self.kind == "nested":
            return [accessor.codify(name) for accessor in self._spec.accessors()]
        return [f"{name}[{key!r}]" for key in self._keys]

    def _difference(self, tree: Any, name: str) -> str:
        """Error text: the first place where the containers are others than those of params."""
        import optree

        spec = self._spec or optree.tree_structure(self.unflatten([0] * self.size))
        same = f"{name}: expected the same containers as params, in the same order."
        return _first_difference(spec, tree, name) or same


class Active:
    """A tree without its frozen leaves.

    In the containers of gradients anything may stand in the place of a frozen leaf, and it is not
    read; in containers that are returned None does.
    """

    def __init__(self, tree: Tree, active: Sequence[bool]) -> None:
        self._tree, self._active, self._all = tree, list(active), all(active)
        self.is_leaf = tree.is_leaf and self._all

    def select(self, leaves: Sequence[Any]) -> Sequence[Any]:
        """The leaves that are not frozen."""
        if self._all:
            return leaves
        return [leaf for leaf, active in zip(leaves, self._active, strict=True) if active]

    def flatten(self, tree: Any, name: str) -> Sequence[Any]:
        """As `Tree.flatten`, without frozen leaves."""
        return self.select(self._tree.flatten(tree, name))

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """As `Tree.unflatten`, with None where a leaf is frozen."""
        if self._all:
            return self._tree.unflatten(leaves)
        rest = iter(leaves)
        return self._tree.unflatten([next(rest) if active else None for active in self._active])

    def merge(self, tree: Any, leaves: Sequence[Any]) -> Any:
        """The containers of `tree` with these leaves, and its own where a leaf is frozen."""
        rest, whole = iter(leaves), self._tree.flatten(tree, "params")
        pairs = zip(whole, self._active, strict=True)
        return self._tree.unflatten([next(rest) if active else leaf for leaf, active in pairs])

    def paths(self) -> Sequence[tuple[Any, ...]]:
        """As `Tree.paths`, without frozen leaves."""
        return self.select(self._tree.paths())

    def names(self, name: str) -> Sequence[str]:
        """As `Tree.names`, without frozen leaves."""
        return self.select(self._tree.names(name))


def _first_difference(spec: Any, tree: Any, name: str) -> str:
    """Error text for the first container in `tree` that is not as `spec` has it, or ""."""
    import optree

    is_leaf = optree.tree_is_leaf(tree, none_is_leaf=True)
    if is_leaf and spec.is_leaf():
        return ""
    if is_leaf or type(tree) is not spec.type:
        expected = "an array" if spec.is_leaf() else _with_article(spec.type)
        return f"{name}: expected {expected}, got {_kind(tree)}. Nest it as params are."
    children, _, entries, _ = optree.tree_flatten_one_level(tree, none_is_leaf=True)
    wanted, titles = spec.entries(), _titles(spec, name)
    missing = [title for entry, title in zip(wanted, titles, strict=True) if entry not in entries]
    extra = [f"{name}[{entry!r}]" for entry in entries if entry not in wanted]
    parts = [f"without {some(missing)}"] if missing else []
    parts += [f"with {some(extra)} that params do not have"] if extra else []
    if parts:
        return f"{name}: expected the structure of params, got one {' and '.join(parts)}."
    here = dict(zip(entries, children, strict=True))
    below = (
        _first_difference(child, here[entry], title)
        for child, entry, title in zip(spec.children(), wanted, titles, strict=True)
    )
    return next(filter(None, below), "")


def _titles(spec: Any, name: str) -> list[str]:
    """Expressions for the entries of a container: ``grads['w']``, ``grads.w``."""
    titles, accessors = [], iter(spec.accessors())
    for entry, child in zip(spec.entries(), spec.children(), strict=True):
        leaves = [next(accessors) for _ in range(child.num_leaves)]
        titles.append(leaves[0][0].codify(name) if leaves else f"{name}[{entry!r}]")
    return titles


def _kind(x: Any) -> str:
    """Short name of what was given: "an array", "a tuple", "None", "the number 3.0"."""
    if x is None:
        return "None"
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return "an array" if x.shape else "a number"
    return f"the number {x!r}" if isinstance(x, numbers.Number) else _with_article(type(x))


def _with_article(kind: type) -> str:
    return f"a{'n' if kind.__name__[0] in 'AEIOaeio' else ''} {kind.__name__}"


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

"""Nested containers of arrays: flattened in one order, rebuilt, and their leaves named."""

from __future__ import annotations

import copy
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
    return len(one) == len(other) and all(map(operator.is_, one, other))


def refuse_replaced(structure: Tree, tree: Any, leaves: Sequence[Any], name: str) -> None:
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

    It is that of an array or a nesting of lists, tuples, dicts, and what else optree knows. Leaves
    may be frozen: they are left out of what is flattened, where anything may stand in their place,
    and None is there in containers that are returned.
    """

    def __init__(self, tree: Any) -> None:
        self._type = type(tree)
        self._keys: list[Any] = []
        self._spec: Any = None
        self._active: list[bool] | None = None
        if hasattr(tree, "dtype"):
            self._kind, self.size = "leaf", 1
        elif _is_flat(tree):
            self._kind, self.size = self._type.__name__, len(tree)
            self._keys = list(tree) if self._type is dict else list(range(len(tree)))
            self._key_set = dict.fromkeys(self._keys).keys()
        else:
            import optree

            self._spec = optree.tree_structure(tree, none_is_leaf=True)
            self._kind, self.size = "nested", self._spec.num_leaves
            if self._spec.is_leaf():
                self._kind = "leaf"
        #: whether it is one array, which is not frozen
        self.is_leaf = self._kind == "leaf"

    def without(self, frozen: Sequence[bool]) -> Tree:
        """The same structure with some of its leaves frozen."""
        if not any(frozen):
            return self
        tree = copy.copy(self)
        tree._active = [not one for one in frozen]  # noqa: SLF001  # of this class
        tree.is_leaf = False
        return tree

    def select(self, leaves: Sequence[Any]) -> list[Any]:
        """The leaves that are not frozen, of all."""
        if self._active is None:
            return list(leaves)
        return [leaf for leaf, active in zip(leaves, self._active, strict=True) if active]

    def flatten(self, tree: Any, name: str) -> Sequence[Any]:
        """The leaves of a tree of this structure, in its order.

        Raises
        ------
        ValueError
            Where the structure is another; the message says which leaves are missing or extra.
            And where it changes meanwhile.
        """
        leaves = self._flatten(tree, name)
        return leaves if self._active is None else self.select(leaves)

    def _flatten(self, tree: Any, name: str) -> Sequence[Any]:
        """All leaves, frozen ones too."""
        if self._kind == "leaf":
            return (tree,)
        try:
            if type(tree) is self._type and self._kind != "nested":
                if self._kind != "dict":
                    leaves = tuple(tree)  # another thread may change the list meanwhile
                    if len(leaves) == self.size:
                        return leaves
                elif tree.keys() == self._key_set:
                    return [tree[key] for key in self._keys]
            if self._kind == "nested":
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

    def unflatten(self, leaves: Sequence[Any], tree: Any = None) -> Any:
        """A tree of this structure with these leaves; a frozen one is that of `tree`, or None."""
        if self._active is not None:
            others = [None] * self.size if tree is None else self._flatten(tree, "params")
            rest, pairs = iter(leaves), zip(self._active, others, strict=True)
            leaves = [next(rest) if active else other for active, other in pairs]
        return self._unflatten(leaves)

    def _unflatten(self, leaves: Sequence[Any]) -> Any:
        if self._kind == "leaf":
            return leaves[0]
        if self._kind == "nested":
            return self._spec.unflatten(leaves)
        if self._kind == "dict":
            return dict(zip(self._keys, leaves, strict=True))
        return self._type(leaves)

    def paths(self) -> list[tuple[Any, ...]]:
        """The keys that lead to each leaf."""
        if self._kind == "leaf":
            return self.select([()])
        if self._kind == "nested":
            return self.select([tuple(path) for path in self._spec.paths()])
        return self.select([(key,) for key in self._keys])

    def names(self, name: str) -> list[str]:
        """Expressions for the leaves, as a user writes them: ``params['w'][0]``."""
        if self._kind == "leaf":
            return self.select([name])
        if self._kind == "nested":
            return self.select([accessor.codify(name) for accessor in self._spec.accessors()])
        return self.select([f"{name}[{key!r}]" for key in self._keys])

    def _difference(self, tree: Any, name: str) -> str:
        """Error text: the first place where the containers are others than those of params."""
        import optree

        spec = self._spec or optree.tree_structure(self._unflatten([0] * self.size))
        same = f"{name}: expected the same containers as params, in the same order."
        return _first_difference(spec, tree, name) or same


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

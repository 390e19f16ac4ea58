"""Nested containers of arrays: taken apart in one order, put together again, leaves named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CONTAINERS = (list, tuple, dict)


def _is_flat(tree: Any) -> bool:
    """A plain list, tuple or dict whose entries are no containers: optree is not needed."""
    if type(tree) not in _CONTAINERS:
        return False
    entries = tree.values() if type(tree) is dict else tree
    return not any(isinstance(entry, _CONTAINERS) for entry in entries)


class Tree:
    """The structure of `params`: which leaves there are, in which order, and what they are called.

    Parameters
    ----------
    tree : array or nesting of lists, tuples, dicts (and what else optree knows)
        Only its structure is kept.
    """

    def __init__(self, tree: Any) -> None:
        self._type = type(tree)
        self._keys: list[Any] = []
        self._spec: Any = None
        self.is_leaf = not isinstance(tree, _CONTAINERS)
        if self.is_leaf:
            self.kind, self.size = "leaf", 1
        elif _is_flat(tree):
            self.kind, self.size = self._type.__name__, len(tree)
            self._keys = list(tree) if self._type is dict else list(range(len(tree)))
        else:
            import optree

            self.kind = "nested"
            self._spec = optree.tree_structure(tree, none_is_leaf=True)
            self.size = self._spec.num_leaves

    def flatten(self, tree: Any, name: str) -> Sequence[Any]:
        """The leaves of a tree of this structure, in its order.

        Raises
        ------
        ValueError
            Where the structure is another: it says what is missing and what is too much.
        """
        if self.kind == "leaf":
            return (tree,)
        if type(tree) is self._type and self.kind != "nested" and len(tree) == self.size:
            if self.kind != "dict":
                return tree  # type: ignore[no-any-return]
            if tree.keys() == dict.fromkeys(self._keys).keys():
                return [tree[key] for key in self._keys]
        if self.kind == "nested":
            import optree

            leaves, spec = optree.tree_flatten(tree, none_is_leaf=True)
            if spec == self._spec:
                return leaves
        raise ValueError(self._difference(tree, name))

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """A tree of this structure with these leaves."""
        if self.kind == "leaf":
            return leaves[0]
        if self.kind == "nested":
            return self._spec.unflatten(leaves)
        if self.kind == "dict":
            return dict(zip(self._keys, leaves, strict=True))
        return self._type(leaves)

    def names(self, name: str) -> list[str]:
        """How a user would write each leaf, e.g. ``params['w'][0]``."""
        if self.kind == "leaf":
            return [name]
        if self.kind == "nested":
            return [accessor.codify(name) for accessor in self._spec.accessors()]
        return [f"{name}[{key!r}]" for key in self._keys]

    def _difference(self, tree: Any, name: str) -> str:
        wanted, got = self.names(name), Tree(tree).names(name)
        missing = [leaf for leaf in wanted if leaf not in got]
        extra = [leaf for leaf in got if leaf not in wanted]
        if not missing and not extra:
            return (
                f"{name}: expected the same containers as params ({self._type.__name__}), "
                f"got {type(tree).__name__} or another kind of container inside it."
            )
        parts = []
        if missing:
            parts.append(f"without {_some(missing)}")
        if extra:
            parts.append(f"with {_some(extra)} that params do not have")
        return f"{name}: expected the structure of params, got one {' and '.join(parts)}."


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

"""Internal objects of an optimiser, for the other packages of numadam."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numadam._arrays.tree import Tree
    from numadam._backend import Backend
    from numadam._settings.settings import Settings


class Parts(NamedTuple):
    """The internal objects of an optimiser."""

    tree: Tree
    settings: Settings
    backend: Backend
    lock: Any


def parts_of(optimizer: Any) -> Parts:
    """The internal objects of an optimiser: by this function, so that ``dir`` shows none."""
    parts: Parts = optimizer._parts()  # noqa: SLF001  # the one place
    return parts

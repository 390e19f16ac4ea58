"""Learning rates: one for all arrays, one for each array, or one for each element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from array_api_compat import array_namespace

from numadam._arrays.checks import refuse_more_than_numbers
from numadam._arrays.tree import Tree
from numadam._core.hyper import LR
from numadam._settings.bounds import as_numbers, fits


def is_plain(lr: Any) -> bool:
    """Whether a step size is one number, or a callable, for all arrays."""
    return not isinstance(lr, (list, tuple, Mapping)) and getattr(lr, "ndim", 0) == 0


def check_rate(lr: Any, leaf: Any, name: str) -> Any:
    """A step size per element: finite, not negative, and of a shape that fits."""
    xp = array_namespace(leaf)
    refuse_more_than_numbers(lr, "lr", "expected a number or an array")
    try:
        values = as_numbers(xp, lr, "lr")
    except (TypeError, ValueError) as error:
        raise TypeError(f"lr: expected a number or an array for {name}, got {lr!r:.80}.") from error
    if not fits(values, leaf):
        raise ValueError(
            f"lr: expected a number or an array that broadcasts to shape {leaf.shape} of {name}, "
            f"got shape {values.shape}."
        )
    if not bool(xp.all((values >= 0.0) & xp.isfinite(values))):
        raise ValueError(f"lr: expected finite numbers >= 0 for {name}.")
    return values


def leaf_rates(lr: Any, tree: Tree) -> list[Any]:
    """The step sizes of the arrays, given in the nesting of the parameters."""
    if tree.is_leaf:
        return [lr]
    rates = list(tree.flatten(lr, "lr"))
    return [LR.check_or_schedule(rate) if is_plain(rate) else rate for rate in rates]

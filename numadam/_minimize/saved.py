"""The `state` of a result: all that a later run needs to go on as if this one had not stopped."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from numadam._arrays.checks import describe, is_masked
from numadam._arrays.tree import Tree
from numadam._core.parts import parts_of
from numadam._minimize.stopping import Tolerances
from numadam._optimizer.optimizer import Optimizer


class Best(NamedTuple):
    """The iterate of the lowest f; `jac` is None where no gradient was formed there."""

    x: Any
    fun: float
    jac: Any
    grad_norm: float


#: Entries of a saved run besides those of the optimiser's state.
_OF_THE_RUN = (*Best._fields, "x_last", "first_grad_norm", "norm")


def save_state(
    saved: dict[str, Any],
    x_last: Any,
    best: Best | None,
    first: float,
    norm: float,
) -> dict[str, Any]:
    """Add to `saved`, the state of the optimiser, what else belongs to a run.

    No entry may be an array that somebody else writes to. `first` is the norm of the first
    projected gradient, NaN where none was formed.
    """
    if best is not None:
        saved["x"], saved["fun"], saved["grad_norm"] = best.x, best.fun, best.grad_norm
        if best.jac is not None:
            saved["jac"] = best.jac
    saved["x_last"] = x_last
    if math.isfinite(first):
        saved["first_grad_norm"], saved["norm"] = first, norm
    return saved


def start_of(saved: Any, x0: Any) -> Any:
    """A copy of the x that a saved run goes on from; `x0` gives the structure."""
    if not hasattr(saved, "items") or "nit" in saved:
        hint = " Pass its `state`: state=result.state." if hasattr(saved, "items") else ""
        raise TypeError(
            f"state: expected the `state` of a result, got {type(saved).__name__}.{hint}"
        )
    if "x_last" not in saved:
        return x0  # the state of an optimiser
    x = copy.deepcopy(saved["x_last"])
    tree = Tree(x0)
    _check_alike("x_last", tree.flatten(x, "state['x_last']"), tree.flatten(x0, "x0"))
    return x


def _check_alike(name: str, saved: Sequence[Any], leaves: Sequence[Any]) -> None:
    """Refuse saved arrays of other shapes or dtypes than those of x0, `leaves`."""
    for its, mine in zip(saved, leaves, strict=True):
        if is_masked(its):
            raise TypeError(f"state[{name!r}]: {describe(its)}")
        got = getattr(its, "shape", type(its).__name__), getattr(its, "dtype", "")
        if got != (mine.shape, mine.dtype):
            raise ValueError(
                f"state[{name!r}]: expected the shapes and dtypes of x0, got {got[0]} {got[1]} "
                f"for {mine.shape} {mine.dtype}."
            )


def first_of(saved: Any, tolerances: Tolerances) -> float:
    """The norm of the first projected gradient of a saved run, NaN where there is none."""
    if saved is None or "first_grad_norm" not in saved:
        return math.nan
    if saved["norm"] != tolerances.norm:
        if tolerances.gtol_rel == 0.0:
            return math.nan  # nothing asks for it; it is saved anew in the other norm
        raise ValueError(
            f"norm: the saved run has the first gradient in norm={saved['norm']}, got "
            f"norm={tolerances.norm}. Pass the same, or a gtol."
        )
    return float(saved["first_grad_norm"])


def load_state(optimizer: Optimizer, saved: Any) -> Best | None:
    """Load a saved run; returns a copy of its best iterate, unless that violates the bounds."""
    optimizer.state = {key: value for key, value in saved.items() if key not in _OF_THE_RUN}
    if "x" not in saved:
        return None
    # files of arrays hold numbers as arrays
    fun, size = float(saved["fun"]), float(saved["grad_norm"])
    best = Best(copy.deepcopy(saved["x"]), fun, copy.deepcopy(saved.get("jac")), size)
    tree, settings, backend, _ = parts_of(optimizer)
    leaves = tree.flatten(best.x, "state['x']")
    _check_alike("x", leaves, backend.params)
    if best.jac is not None:
        _check_alike("jac", tree.flatten(best.jac, "state['jac']"), backend.params)
    if not math.isfinite(best.fun):
        return None
    boxes = settings.leaf_boxes()  # the saved run may have had others
    inside = boxes is None or all(
        bool(((leaf >= low) & (leaf <= high)).all())
        for leaf, (low, high) in zip(leaves, boxes, strict=True)
    )
    return best if inside else None

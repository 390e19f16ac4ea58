"""What a minimisation gives back."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from numadam import plan as pl
from numadam.minimizer import stopping as st
from numadam.optimizer import Optimizer

#: Entries of a saved run besides the state of the optimiser.
_BEST = ("x_best", "fun_best")
#: Lines of the history that are kept unless the user says: every so many iterations.
_LINES = 10_000


def every_for(history: Any, maxiter: int) -> int:
    """Every how many iterations a line of the history is kept; 0: none."""
    if history is None or history is True:
        return max(1, -(-maxiter // _LINES))
    if history is False:
        return 0
    from numadam.schedules.base import count

    return count("history", history, 0)


def make_history(lines: Any) -> dict[str, np.ndarray]:
    """The kept lines (iteration, f, gradient, lr) as arrays by name."""
    table = np.array(lines, dtype=np.float64).reshape(-1, 4)
    return {
        "nit": table[:, 0].astype(np.int64),
        "fun": table[:, 1].copy(),
        "grad_norm": table[:, 2].copy(),
        "lr": table[:, 3].copy(),
    }


def save_state(optimizer: Optimizer, best: tuple[Any, float] | None) -> dict[str, Any]:
    """All that a later run needs to go on as if this one had not stopped."""
    saved = copy.deepcopy(dict(optimizer.state))
    saved["t"] = int(saved["t"])
    if best is not None:
        saved |= dict(zip(_BEST, best, strict=True))
    return saved


def load_state(optimizer: Optimizer, saved: Any) -> tuple[Any, float] | None:
    """Take a saved run over; returns a copy of the best point so far, where it still counts."""
    if not hasattr(saved, "items") or "nit" in saved:
        hint = " Pass its `state`: state=result.state." if hasattr(saved, "items") else ""
        raise TypeError(
            f"state: expected the `state` of a result, got {type(saved).__name__}.{hint}"
        )
    optimizer.state = {key: value for key, value in saved.items() if key not in _BEST}
    if not all(key in saved for key in _BEST) or not np.isfinite(saved["fun_best"]):
        return None
    best = copy.deepcopy(saved["x_best"])
    shapes = [leaf.shape for leaf in optimizer._tree.flatten(best, "state['x_best']")]
    if shapes != [leaf.shape for leaf in optimizer._engine.params]:
        raise ValueError(f"state['x_best']: expected the shapes of x0, got {shapes}.")
    return (best, float(saved["fun_best"])) if _inside(optimizer, best) else None


def leaf_boxes(optimizer: Optimizer) -> list[tuple[Any, Any]] | None:
    """The bounds of each array as they hold, rounded into its dtype; None without bounds."""
    settings = optimizer._settings
    if settings.plan.bounds == "scalar":
        return [settings.box(row) for row in settings.rows]
    if settings.plan.bounds == "array":
        per_element = settings.per_element
        return list(zip(per_element[pl.LOW], per_element[pl.HIGH], strict=True))
    return None


def _inside(optimizer: Optimizer, x: Any) -> bool:
    """Whether x keeps the bounds: those of the saved run may have been others."""
    boxes = leaf_boxes(optimizer)
    if boxes is None:
        return True
    leaves = optimizer._tree.flatten(x, "state['x_best']")
    return all(
        bool(((leaf >= low) & (leaf <= high)).all())
        for leaf, (low, high) in zip(leaves, boxes, strict=True)
    )


def finish(code: int, message: str | None = None, **entries: Any) -> OptimizeResult:
    """A result in SciPy's form."""
    return OptimizeResult(
        success=code in (st.GTOL, st.FTOL, st.XTOL),
        status=st.STATUS[code],
        message=message or st.MESSAGES[code],
        **entries,
    )


def attach(error: BaseException, result: OptimizeResult) -> None:
    """Let an exception carry the run that it ended."""
    where = f" at iteration {result.nit}" if isinstance(result.nit, int) else ""
    with contextlib.suppress(AttributeError, TypeError):  # exceptions that take no attribute
        error.numadam_result = result  # type: ignore[attr-defined]  # a new one
        error.add_note(
            f"numadam: the run ended{where}; the result so far is `numadam_result` of this "
            "exception."
        )


class ManyResult(OptimizeResult):  # type: ignore[misc]  # SciPy has no types
    """The results of many problems: arrays with one entry a problem."""

    def best(self) -> OptimizeResult:
        """The problem with the lowest finite f, as a result of its own with its `index`."""
        fun = np.asarray(self.fun.get() if hasattr(self.fun, "get") else self.fun)
        if not np.isfinite(fun).any():
            raise ValueError("best: f is finite in none of the problems.")
        index = int(np.argmin(np.where(np.isfinite(fun), fun, np.inf)))
        one = {
            name: self[name][index]
            for name in ("x", "fun", "jac", "nit", "status", "success")
            if name in self
        }
        return OptimizeResult(index=index, **one)

"""Hints for a run that ended at maxiter: why, as far as start, end and history show it.

Everything here was evaluated by the run. It is read once, after the last iteration.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from numadam._arrays.interop import as_view, is_cupy, to_host
from numadam._arrays.tree import Tree
from numadam._minimize.stopping import MAXITER, STATUS
from numadam._settings.learning_rate import is_plain

#: Iterations, or lines of the history, below which a run is too short to say anything.
_FEW = 20
#: Elements of an array that are looked at.
_SAMPLE = 10_000
#: Share of iterations in which f has to rise.
_RISING = 2 / 3
#: How near to the sum of all lr an element has to come.
_FULL_LENGTH = 0.9, 1.1
#: Fall from one quarter to the next that may be chance, as a part of the middle half of the values.
_CHANCE = 0.25
#: A gradient this small, relative to the first, has arrived.
_ARRIVED = 1e-6


def with_hint(result: OptimizeResult, x0: Any, lr: Any, state: Any) -> OptimizeResult:
    """The result of a run; its message says what kept it from a minimum, where that shows.

    Parameters
    ----------
    result : OptimizeResult
    x0, lr, state
        As the user gave them to `numadam.minimize`.
    """
    if result.status == STATUS[MAXITER]:
        hint = _hint(result, x0, lr, state is not None)
        result.message += hint and f" {hint}"
    return result


def _hint(result: OptimizeResult, x0: Any, lr: Any, resumed: bool) -> str:
    """A sentence, or "" where nothing shows; x0 is not the start of a run that was resumed."""
    history = result.history
    nit, f, gradient = history["nit"], history["fun"], history["grad_norm"]
    if len(nit) > _FEW and np.isfinite(f).all():
        rising = float(np.mean(f[1:] > f[:-1]))
        if rising >= _RISING and f[-1] > f[0]:
            return (
                f"f rose in {rising:.0%} of the iterations, from {f[0]:.4g} to {f[-1]:.4g}: check "
                "the sign of the gradient, or try a smaller lr."
            )
    if not resumed and result.nit >= _FEW and _goes_straight(result, x0, lr):
        return (
            "Most elements of x moved one way, by the full lr in nearly every iteration: try a "
            "larger lr, or more iterations."
        )
    quarter = len(nit) // 4
    if quarter >= _FEW and (f[-quarter:] > f[0]).all():
        return (
            f"f stayed above its first value, {f[0]:.4g}, to the end: try a smaller lr, and check "
            "the gradient."
        )
    if quarter >= _FEW and not _falls(history["lr"]) and _circles(f, gradient, _eps_of(result)):
        return (
            "In the second half of the run neither f nor the gradient fell: x circles at a "
            "distance of about lr, or the gradient is noisy. Try a smaller lr, or one that falls, "
            "such as schedules.Cosine."
        )
    return ""


def _falls(lr: np.ndarray) -> bool:
    """Whether the learning rate falls by itself, to half and less from quarter to quarter."""
    half, late = len(lr) // 2, 3 * len(lr) // 4
    return bool(lr[late:].mean() <= lr[half:late].mean() / 2)


def _eps_of(result: OptimizeResult) -> float:
    """Relative distance of two numbers of the dtype of x."""
    return float(np.finfo(Tree(result.x).flatten(result.x, "x")[0].dtype).eps)


def _goes_straight(result: OptimizeResult, x0: Any, lr: Any) -> bool:
    """Whether most elements that moved are as far from x0 as steps of full length can bring them.

    Adam's step has the length lr where the gradient stays the same.
    """
    tree = Tree(result.x_last)
    steps: Any = result.nit
    if callable(lr):
        if len(result.history["nit"]) < _FEW:
            return False
        steps, lr = float(np.diff(result.history["nit"]) @ result.history["lr"][1:]), 1.0
    elif not is_plain(lr) and not (tree.is_leaf and hasattr(lr, "dtype")):
        return False
    moved = straight = 0
    begins, ends = tree.flatten(x0, "x0"), tree.flatten(result.x_last, "x")
    for begin, end in zip(begins, ends, strict=True):
        if hasattr(begin, "compute"):  # dask would do all of its work again
            return False
        every = max(1, end.size // _SAMPLE)
        whole = lr if is_plain(lr) else _sample(np.broadcast_to(to_host(lr), end.shape), every)
        way = _sample(end, every) - _sample(as_view(begin), every)
        # the real and the imaginary part of a complex number are two elements
        for part in (way.real, way.imag) if way.dtype.kind == "c" else (way,):
            length = np.abs(part)
            at_most = whole * steps
            moved += int(np.count_nonzero(length))
            near = (
                (length >= _FULL_LENGTH[0] * at_most)
                & (length <= _FULL_LENGTH[1] * at_most)
                & (length > 0)
            )
            straight += int(np.count_nonzero(near))
    return 2 * straight > moved


def _sample(x: Any, every: int) -> np.ndarray:
    """Elements of an array in C order, on the host."""
    if is_cupy(x):
        return np.asarray(to_host(x.reshape(-1)[::every]))
    return np.asarray(x).flat[::every]


def _circles(f: np.ndarray, gradient: np.ndarray, eps: float) -> bool:
    """Whether neither f nor gradient fell from the third quarter to the last, while x moved."""
    half, late = len(f) // 2, 3 * len(f) // 4
    if gradient[late:].max() <= max(_ARRIVED, eps**0.5) * gradient[0]:
        return False
    fell, varies = _fall(gradient, half, late)
    if fell or np.isnan(f).any():  # f was not evaluated
        return not fell and varies > 0.0
    fell, varies = _fall(f, half, late)
    return not fell and varies > 100 * eps * np.abs(f[late:]).max()


def _fall(values: np.ndarray, half: int, late: int) -> tuple[bool, float]:
    """Whether the median fell from the third quarter to the last; and how far values vary."""
    third, last, both = np.sort(values[half:late]), np.sort(values[late:]), np.sort(values[half:])
    varies = float(both[3 * len(both) // 4] - both[len(both) // 4])
    fell = float(third[len(third) // 2] - last[len(last) // 2])
    return fell > _CHANCE * varies, varies

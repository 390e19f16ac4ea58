"""Hints for a run that ended at its start or at maxiter: why, as far as the run shows it.

Everything here was evaluated by the run. It is read once, after the last iteration.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._arrays.interop import as_view, is_array, sample, to_host
from numadam._arrays.tree import Tree
from numadam._minimize.result import Result
from numadam._minimize.stopping import BAD_F, BAD_G, GTOL, MAXITER, STATUS
from numadam._settings.settings import is_plain

#: Iterations, or lines of the history, below which a run is too short to say anything.
_FEW_ITERATIONS = 20
#: Elements of an array that are compared.
_SAMPLE = 10_000
#: How near to the sum of all lr an element has to come.
_FULL_LENGTH = 0.9, 1.1
#: Fall from one quarter to the next that may be chance, as a part of the middle half of the values.
_CHANCE = 0.25
#: A gradient this small, relative to the first, has arrived.
_ARRIVED = 1e-6


def with_hint(result: Result, x0: Any, lr: Any, state: Any, bounded: bool) -> Result:
    """The result of a run; its message says what kept it from a minimum, where that shows.

    `x0`, `lr`, `state` are as the user gave them. `bounded`: x has bounds.
    """
    if result["status"] in (STATUS[BAD_F], STATUS[BAD_G]) and result["nit"] == 0:
        what = "f" if result["status"] == STATUS[BAD_F] else "The gradient"
        here = f"the start, x0{_not_finite(x0)}" if state is None else "the x of state"
        prefix = result.message.rpartition(f"{what} is not finite")[0]  # of a file
        result.message = f"{prefix}{what} is not finite at {here}."
    at_rest = result["status"] == STATUS[GTOL] and result["nit"] == 0
    if at_rest and bounded and result["jac"] is not None:
        leaves = Tree(result["x"]).flatten(result["jac"], "jac")
        # where a bound is active, the projected gradient is smaller than the gradient
        held = sum(int((abs(leaf) > result["grad_norm"]).sum()) for leaf in leaves)
        if held:
            result.message += (
                f" x0 lies on a bound in {held:,} of {sum(leaf.size for leaf in leaves):,} "
                "elements, and the gradient holds it there."
            )
    if result["status"] == STATUS[MAXITER]:
        hint = _hint(result, x0, lr, state is not None)
        if hint:
            result.message += f" {hint}"
    return result


def _not_finite(x0: Any) -> str:
    """A clause on a start with NaN or infinite numbers, or ""."""
    leaves = Tree(x0).flatten(x0, "x0")
    whole = all(np.isfinite(to_host(as_view(leaf))).all() for leaf in leaves)
    return "" if whole else ", which holds NaN or infinite numbers"


def _hint(result: Result, x0: Any, lr: Any, resumed: bool) -> str:
    """A sentence, or "" where nothing shows; x0 is not the start of a run that was resumed.

    A good run passes few tests, each of a few NumPy calls: 1000 compiled iterations take 80 us.
    """
    if is_plain(lr) and not callable(lr) and lr == 0.0:
        return "lr is 0: x did not move."
    history = result["history"]
    f = history["fun"]
    lines = len(f)
    quarter = lines // 4
    if lines > _FEW_ITERATIONS and (f[-quarter:] > f[0]).all():
        return (
            f"f stayed above its first value, {f[0]:.4g}, to the end: check the sign of the "
            "gradient (numadam.check_grad), or try a smaller lr."
        )
    if not resumed and result["nit"] >= _FEW_ITERATIONS and _goes_straight(result, x0, lr):
        return (
            "Most elements of x moved one way, by the full lr in nearly every iteration: try a "
            "larger lr, or more iterations."
        )
    if quarter < _FEW_ITERATIONS:
        return ""
    half, late = lines // 2, 3 * lines // 4
    third, last = f[half:late], f[late:]
    # positions: half the time of the values; False where one is NaN
    falls = third.item(third.argmin()) > last.item(last.argmax())
    # then the median has fallen as well (`_fall`), which takes ten times as long to find out
    rates = history["lr"]
    if falls or rates[late:].mean() <= rates[half:late].mean() / 2:
        return ""
    if _circles(result):
        falling = "falls further" if callable(lr) else "falls, such as schedules.Cosine"
        return (
            "In the second half of the run neither f nor the gradient fell: x circles at a "
            "distance of about lr, or the gradient is noisy. Try a smaller lr, or one that "
            f"{falling}."
        )
    return ""


def _goes_straight(result: Result, x0: Any, lr: Any) -> bool:
    """Whether most elements that moved are as far from x0 as steps of full length can bring them.

    Adam's step has the length lr where the gradient stays the same. False where it cannot be told.
    """
    x, steps = result["x_last"], result["nit"]
    plain = type(lr) is float or is_plain(lr)
    if plain and callable(lr):
        if len(result.history["nit"]) < _FEW_ITERATIONS:
            return False
        steps, lr = float(np.diff(result.history["nit"]) @ result.history["lr"][1:]), 1.0
    elif not plain and not (is_array(x) and hasattr(lr, "dtype")):
        return False
    straight, moved, tree = 0, 0, Tree(x)
    for begin, end in zip(tree.flatten(x0, "x0"), tree.flatten(x, "x"), strict=True):
        if hasattr(begin, "compute"):  # dask would do all of its work again
            return False
        every = end.size // _SAMPLE or 1
        whole = lr if plain else sample(np.broadcast_to(to_host(lr), end.shape), every)
        way, at_most = sample(end, every) - sample(begin, every), whole * steps
        # the real and the imaginary part of a complex number are two elements
        for part in (way.real, way.imag) if way.dtype.kind == "c" else (way,):
            length = abs(part)
            moved += int(np.count_nonzero(length))
            far = length >= _FULL_LENGTH[0] * at_most
            if np.count_nonzero(far):
                far &= (length <= _FULL_LENGTH[1] * at_most) & (length > 0)
                straight += int(np.count_nonzero(far))
    return 2 * straight > moved


def _circles(result: Result) -> bool:
    """Whether neither f nor gradient fell from the third quarter to the last, while x moved."""
    f, gradient = result.history["fun"], result.history["grad_norm"]
    eps = float(np.finfo(Tree(result.x).flatten(result.x, "x")[0].dtype).eps)
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

"""Result of many problems, from the codes of their stop tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._minimize import stopping as st
from numadam._minimize.result import ManyResult
from numadam._minimize.tasks import ManyTask
from numadam._optimizer.optimizer import Optimizer


def _gradient_texts(task: ManyTask, size: np.ndarray, first: np.ndarray) -> list[tuple[int, str]]:
    """Counts of the problems that the gradient's test has stopped, and its messages."""
    absolute, at_rest = size <= task.tolerances.gtol, first == 0.0
    fell = ~absolute & ~at_rest
    ratio = np.divide(size, first, out=np.zeros(len(size)), where=fell)
    found = []
    for those in (absolute, at_rest & ~absolute, fell):
        if those.any():  # the one whose gradient fell least stands for all
            most = int(np.argmax(np.where(those, ratio, -1.0)))
            text = task.tolerances.gradient_message(float(size[most]), float(first[most]))
            found.append((int(those.sum()), text))
    return found


def _many_message(
    codes: np.ndarray, task: ManyTask, size: np.ndarray, first: np.ndarray, eps: Any
) -> str:
    found, total = [], len(codes)
    for code in np.unique(codes):
        those = codes == code
        if code == st.GTOL:
            found += _gradient_texts(task, size[those], first[those])
        else:
            found.append((int(those.sum()), st.MESSAGES[code]))
    if isinstance(eps, float):
        small = int((np.isin(codes, st.AT_REST) & (size > 0.0) & (size < eps)).sum())
        if small:
            found.append((small, f"The gradient is {st.below_eps(eps)}"))
    return " ".join(f"{number} of {total}: {text}" for number, text in found)


def make_result(
    task: ManyTask,
    optimizer: Optimizer,
    codes: np.ndarray,
    nit: np.ndarray,
    nfev: int,
    interrupted: bool,
    norms: tuple[np.ndarray, np.ndarray],
    **arrays: Any,
) -> ManyResult:
    """The result of all problems.

    `codes` says which stop test held in each, and `norms` are those of the last and the first
    projected gradient.
    """
    if not interrupted:
        codes = np.where(codes == st.RUNNING, st.MAXITER, codes)
    status = np.array([st.STATUS[code] for code in range(st.RAISED + 1)])[codes]
    held = np.isin(np.arange(st.RAISED + 1), (st.GTOL, st.FTOL, st.XTOL))
    return ManyResult(
        success=held[codes],
        status=status,
        message=_many_message(codes, task, *norms, getattr(optimizer, "eps", None)),
        nit=nit,
        nfev=nfev,
        **arrays,
    )

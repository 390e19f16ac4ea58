"""Problems that are ready to start: making one takes ten times as long as a short run."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._minimize.compiled.backend import StateOnly
from numadam._minimize.compiled.problem import Problem
from numadam._optimizer.base import make_optimizer
from numadam._settings.learning_rate import is_plain

#: Free problems by what they fit. A run takes one and puts it back, so no two runs share memory,
#: in threads or in a callback. Those of the latest keys are kept; large x are not.
_free: dict[Any, list[Problem]] = {}
_KEPT_KEYS, _OF_A_KEY, _NUMBERS = 64, 8, 4_096

_NUMBERS_AND_TEXT = (bool, int, float, str, np.float64, type(None))


def _identity(option: Any) -> Any:
    """A key for an option that is a number, a text or a tuple of them; TypeError for others."""
    kind = type(option)
    if kind is tuple:
        return tuple(map(_identity, option))
    if kind not in _NUMBERS_AND_TEXT:
        raise TypeError(f"{kind}: is not compared by its value.")
    return kind, repr(option)  # 1, 1.0 and True are equal, as 0.0 and -0.0 are


def key_for(rule: type[Any], x: np.ndarray, lr: Any, options: dict[str, Any], norm: float) -> Any:
    """The key of a problem; None where it can serve one run only.

    Arrays and functions among the options may change behind their identity.
    """
    if x.size > _NUMBERS or not is_plain(lr):
        return None
    try:
        return rule, norm, x.dtype, x.shape, tuple(options), _identity(tuple(options.values()))
    except TypeError:
        return None


def take(
    key: Any, rule: type[Any], x: np.ndarray, lr: Any, options: dict[str, Any], norm: float
) -> Problem:
    """A problem of that key, not yet started: a free one, or a new one over x itself."""
    try:
        return _free[key].pop()
    except (KeyError, IndexError):
        return Problem(make_optimizer(rule, x, lr, backend=StateOnly, **options), norm)


def put_back(key: Any, problem: Problem) -> None:
    """Keep a problem for the next run."""
    problem.release()
    if key is None:
        return
    free = _free.setdefault(key, [])
    if len(free) < _OF_A_KEY:
        free.append(problem)
    if len(_free) > _KEPT_KEYS:
        for old in list(_free)[:-_KEPT_KEYS]:
            _free.pop(old, None)

"""Problems that are ready to start: making one takes ten times as long as a short run."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._core.frozen import freeze
from numadam._minimize.compiled.backend import StateOnly
from numadam._minimize.compiled.problem import Problem
from numadam._optimizer.base import make_optimizer
from numadam._settings.groups import is_plain

#: Free problems by what they fit. A run takes one and puts it back, so no two runs share memory,
#: in threads or in a callback. Those of the latest keys are kept; large x are not.
_free: dict[Any, list[Problem]] = {}
_KEPT_KEYS, _OF_A_KEY, _NUMBERS = 64, 8, 4_096


def key_for(rule: type[Any], x: np.ndarray, lr: Any, options: dict[str, Any], norm: float) -> Any:
    """The key of a problem; None where it can serve one run only.

    Arrays and functions among the options may change behind their identity.
    """
    frozen = freeze(options)
    if frozen is None or x.size > _NUMBERS or not is_plain(lr):
        return None
    return rule, norm, x.dtype, x.shape, frozen


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

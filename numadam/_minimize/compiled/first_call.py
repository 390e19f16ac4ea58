"""The first call of a compiled objective: whether it writes its gradient into g.

Arguments in another order, ``fun(x, data, g)``, compile as well: the data are written, g stays 0,
and x0 would count as a minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numadam._arrays.interop import is_array

#: The step to other points, relative to x: long enough that f changes.
_STEP = 1e-3


def _arrays_in(arg: Any) -> list[Any]:
    """The arrays of an argument that may be written to."""
    if isinstance(arg, tuple):
        return [array for one in arg for array in _arrays_in(one)]
    if not is_array(arg) or (isinstance(arg, np.ndarray) and not arg.flags.writeable):
        return []
    return [arg]


class FirstCall:
    """The arguments before the first call: a copy of each array, until `check`.

    An array that is written to while g is written too is a work array, and allowed.
    """

    def __init__(self, args: tuple[Any, ...]) -> None:
        arrays = ((k, array) for k, arg in enumerate(args) for array in _arrays_in(arg))
        self._copies = [(k, array, array.copy()) for k, array in arrays]

    def check(self, f: Any, g: Any, x: Any, evaluate: Callable[[Any], tuple[Any, Any]]) -> bool:
        """Whether the objective writes into g; False where f is flat around x, and nothing tells.

        `f` and `g` are those at x, and ``evaluate(x)`` returns those of another x. It is called
        only where g is 0, at two points.
        """
        if g.any():
            return True
        step, flat = _STEP * np.where(x == 0, 1.0, abs(x)).astype(x.dtype), True
        for other in (x + step, x - step):
            f_there, g_there = evaluate(other)
            if g_there.any():
                return True
            flat = flat and not ((f_there != f) & np.isfinite(f_there) & np.isfinite(f)).any()
        written = [k for k, array, copy in self._copies if array.tobytes() != copy.tobytes()]
        for _, array, copy in self._copies:
            array[...] = copy
        if written:
            raise TypeError(
                f"fun: writes into args[{written[0]}], and nothing into g, its second argument. "
                "Write it as fun(x, g, *args). args are as they were."
            )
        if not flat:
            raise TypeError(
                "fun: f changes with x, but g stays 0: it writes no gradient. Write g[0] = ... or "
                "g[:] = ..."
            )
        return False

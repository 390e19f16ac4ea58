"""An objective in Python on many problems: called on all rows, or on those that still run."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from numadam._arrays.interop import is_cupy
from numadam._minimize.objective import cast, refuse_uncompiled, split_pair


def takes_rows(fun: Any, args: tuple[Any, ...]) -> bool:
    """Whether `fun` can be called with ``rows=rows``: it has `rows` by name or ``**kwargs``.

    Not where the caller has bound `rows` already, nor where a wrapper with ``**kwargs`` passes all
    on to a function that has none.
    """
    if isinstance(fun, functools.partial) and "rows" in fun.keywords:
        return False
    try:
        signature = inspect.signature(fun, follow_wrapped=False)
        signature.bind_partial(None, *args, rows=None)
    except (TypeError, ValueError):  # the last for functions in C that have no signature
        return False
    inside = getattr(fun, "__wrapped__", None)
    return "rows" in signature.parameters or inside is None or takes_rows(inside, args)


class RowObjective:
    """Evaluate f and gradient of the rows that run, and check what comes back.

    Attributes
    ----------
    evaluations : int
        Evaluations of f so far, one a row.
    """

    def __init__(self, fun: Any, args: tuple[Any, ...], jac: Any, x: Any) -> None:
        self._fun_by_rows = takes_rows(fun, args)
        if not self._fun_by_rows:
            refuse_uncompiled(fun, args, 0)
        if jac is not True and not callable(jac):
            raise ValueError(
                "jac: an objective in Python needs True (fun returns f and gradient) or a "
                f"function, got {jac!r}."
            )
        self._fun, self._args, self._jac, self._x = fun, args, jac, x
        self._xp, self._on_host = array_namespace(x), not is_cupy(x)
        self._of_f = self._xp.zeros(len(x), dtype=np.float64)
        self._jac_by_rows = jac is not True and takes_rows(jac, args)
        self.evaluations = 0

    def evaluate(self, running: np.ndarray) -> tuple[Any, Any]:
        """Evaluate f and gradient at x: of all rows, but zeros where stopped ones were left out."""
        # None: all of them
        rows = None if running.all() else self._xp.asarray(np.flatnonzero(running))
        given, of_f = self._call(self._fun, self._fun_by_rows, rows)
        self.evaluations += len(running) if of_f is None else len(of_f)
        if self._jac is True:
            (f, g), of_g, name = split_pair(given), of_f, "fun: its gradient"
        else:
            f, name = given, "jac: the gradient"
            g, of_g = self._call(self._jac, self._jac_by_rows, rows)
        return self._whole("fun: f", f, of_f, self._of_f), self._whole(name, g, of_g, self._x)

    def _call(self, function: Any, by_rows: bool, rows: Any) -> tuple[Any, Any]:
        """Call one of the user's functions; returns the rows that it got as well, None for all."""
        if not by_rows:
            return function(self._x.copy(), *self._args), None
        numbers = self._xp.arange(len(self._x), dtype=np.int64) if rows is None else rows.copy()
        x = self._x.copy() if rows is None else self._x[rows]
        try:
            return function(x, *self._args, rows=numbers), rows
        except TypeError as error:
            if "'rows'" in str(error):  # a wrapper with **kwargs, of a function without
                error.add_note(
                    "numadam: a fun or jac that takes **kwargs gets rows=..., the numbers of the "
                    "rows of X. Leave it out when you call others, or take X and args alone."
                )
            raise

    def _whole(self, name: str, given: Any, rows: Any, like: Any) -> Any:
        """Check an array of the user's, and bring it to the rows and the dtype of another one."""
        shape, dtype = (len(like) if rows is None else len(rows), *like.shape[1:]), like.dtype
        if getattr(given, "shape", None) != shape:
            raise ValueError(
                f"{name} has to be an array of shape {shape}, one entry for each "
                f"row of X, got {getattr(given, 'shape', type(given).__name__)}."
            )
        if is_cupy(given) == self._on_host:
            raise TypeError(f"{name} and x0 have to be arrays of one library.")
        given = cast(given, dtype, name)
        if rows is None:
            return given
        whole = self._xp.zeros_like(like)
        whole[rows] = given
        return whole

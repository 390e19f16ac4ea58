"""Adapter from the loop to the user's compiled residuals: one evaluation of one problem.

As `numadam._minimize.compiled.objective`, whose calls and types it shares.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np
from numba import from_dtype, types

from numadam._jit import private
from numadam._jit.build import refuse_without_jit
from numadam._jit.calls import array_at, loader
from numadam._least_squares.factors import padded
from numadam._minimize.compiled.objective import (
    ADAPTERS,
    about_args,
    counts_of,
    derivatives,
    evaluation,
    guarded,
    is_compiled,
    refuse_unread,
    type_of_args,
)

#: What `jac` has to be for differences.
DIFFERENCES = "differences"

#: Call forms: with J or without, with the number of the problem or without.
FORMS = {
    (False, False): "fun(x, r, *args)",
    (False, True): "fun(x, r, i, *args)",
    (True, False): "fun(x, r, J, *args)",
    (True, True): "fun(x, r, J, i, *args)",
}


def form_of(fun: Any, args: tuple[Any, ...], jac: Any) -> tuple[bool, bool]:
    """Whether compiled residuals write J, and whether they take the number of the problem."""
    refuse_without_jit()
    if not is_compiled(fun):
        raise TypeError(
            f"fun: expected a function compiled by Numba, got {type(fun).__name__}. Decorate it "
            "with @numba.njit; residuals in Python are for scipy.optimize.least_squares."
        )
    if (
        jac is not None
        and type(jac) is not bool
        and not (isinstance(jac, str) and jac == DIFFERENCES)
    ):
        raise TypeError(
            f"jac: expected None, True or {DIFFERENCES!r}, got {jac!r:.80}. None: exact "
            "derivatives of fun; with True it writes them into J, as fun(x, r, J, i, *args)."
        )
    derives = jac is True
    least, most, names = counts_of(fun)
    fits = [
        form for form in FORMS if form[0] == derives and least <= len(args) + 2 + sum(form) <= most
    ]
    shown = f"fun({', '.join(names)})"
    if len(fits) != 1:
        plain, numbered = FORMS[derives, False], FORMS[derives, True]
        raise TypeError(
            f"fun: with {len(args)} args and jac={jac!r} it is called as {numbered} or as {plain}, "
            f"with {len(args) + 3 + derives} or {len(args) + 2 + derives} arguments; got {shown}."
            f"{' Write it without defaults and *args.' if fits else ''}"
        )
    for place, what in enumerate(("residuals", "derivatives")[: 1 + derives], 1):
        refuse_unread(fun.py_func.__code__, place, what)
    return fits[0]


def _make_evaluate(fun: Any, form: tuple[bool, bool], guard: Any, real: Any, args_type: Any) -> Any:
    """The function at whose address the loop finds the residuals; r and J begin as zeros.

    With m below 0 for the check of `numadam._least_squares.guards`: they hold marks, and J has rows
    that are twice as long. A second call for that, so that the compiler knows the layout in each.

    Numba drops the calls of other forms: a function for the call takes 40 % of the compile time.
    """
    load, (derives, numbered), one = loader(args_type), form, real(1)

    def evaluate(i, x_at, r_at, J_at, n, m, args_at):
        x, args, checks = guard(array_at(x_at, n, one)), load(args_at), m < 0
        m = abs(m)
        wide, r = padded(m), array_at(r_at, m, one)
        J = array_at(J_at, (n if derives else 0, wide), one)
        if not checks:
            for k in range(m):
                r[k] = 0.0
            flat = array_at(J_at, J.size, one)
            for k in range(len(flat)):
                flat[k] = 0.0
        if derives:
            rows = array_at(J_at, (m, 2 * n), one)
            if numbered and checks:
                fun(x, r, rows[:, :n], i, *args)
            elif numbered:
                fun(x, r, J[:, :m].T, i, *args)
            elif checks:
                fun(x, r, rows[:, :n], *args)
            else:
                fun(x, r, J[:, :m].T, *args)
        elif numbered:
            fun(x, r, i, *args)
        else:
            fun(x, r, *args)
        return 0

    return evaluate


class ResidualAdapter:
    """Compiled residuals for one dtype of x and one type of their arguments.

    Attributes
    ----------
    address : int
        Of ``evaluate``, which the loop calls.
    """

    def __init__(
        self, fun: Any, form: tuple[bool, bool], real: Any, args_type: Any, exact: int
    ) -> None:
        self._fun, self._form, self._real = fun, form, real

        def compile_for(function: Any, guard: Any) -> Any:
            if exact:
                function = derivatives().with_jacobian(function, exact)
            called = form[0] or exact > 0, form[1]
            return evaluation(_make_evaluate(function, called, guard, real, args_type))

        def explain(error: Any) -> str:
            if exact and (reason := derivatives().reason(error)):
                advice = f"{about_args(args_type)}Or pass jac={DIFFERENCES!r}, or write J"
                return f"fun: {reason} {advice}, with jac=True."
            kinds = types.Array(from_dtype(np.dtype(real)), 1, "C")
            return (
                f"fun: {fun.__name__}{inspect.signature(fun.py_func)} does not compile as "
                f"{FORMS[form]} for x and r of {kinds}{', J of shape (m, n)' * form[0]} and args "
                f"of {args_type}. x is read-only: residuals go into r. {about_args(args_type)}"
                f"Numba: {str(error).strip()[:1500]}"
            )

        self._evaluate, self._is_guarded = guarded(fun, "residuals go into r", compile_for, explain)
        self.address = private.address(self._evaluate)

    def call_again(
        self, x: np.ndarray, m: int, number: int, args: tuple[Any, ...]
    ) -> list[np.ndarray]:
        """Evaluate from Python, as the exception of a compiled call is raised: r, and J if any."""
        derives, numbered = self._form
        written = [np.zeros(m, self._real)]
        if derives:
            written.append(np.zeros((len(x), m + 1), self._real)[:, :m].T)  # of the loop's layout
        numbers = (number,) if numbered else ()
        x.flags.writeable = not self._is_guarded
        self._fun(x, *written, *numbers, *args)
        return written


def adapter_for(
    fun: Any, form: tuple[bool, bool], dtype: np.dtype[Any], args: tuple[Any, ...], exact: int = 0
) -> ResidualAdapter:
    """The adapter to residuals, compiled or cached; with exact derivatives by so many unknowns."""
    return _adapter(fun, form, dtype, type_of_args(args), exact)


@functools.lru_cache(ADAPTERS)
def _adapter(
    fun: Any, form: tuple[bool, bool], dtype: np.dtype[Any], args_type: Any, exact: int
) -> ResidualAdapter:
    return ResidualAdapter(fun, form, dtype.type, args_type, exact)

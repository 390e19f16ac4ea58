"""Formulas of rules as the loops call them: one order of arguments, three state arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numadam._core.plan import STATE_SLOTS, Plan
from numadam._core.rule import RuleSpec

_ADAPTER = """
def make(element):
    def adapter(p, g, gg, {slots}, h):
        {results} = element({parameters})
        return step, {slots}
    return adapter
"""


def parameters_of(rule: RuleSpec, element: Callable[..., Any]) -> list[str]:
    """The parameters of a rule's element; refuses those that the loops cannot give it."""
    found = list(inspect.signature(element).parameters)
    plain, with_square = (["p", "g", *square, *rule.state, "h"] for square in ([], ["gg"]))
    if found not in (plain, with_square):
        raise TypeError(
            f"{rule.name}: expected element({', '.join(plain)}), or with gg, the square of g, "
            f"after g; got element({', '.join(found)})."
        )
    return found


def make_element(rule: RuleSpec, formula: Callable[..., Any], wrap: Any) -> Any:
    """``element(p, g, gg, s0, s1, s2, h) -> (step, s0, s1, s2)``: any formula, as loops call it.

    It is written as source: Numba compiles no call whose number of arguments is found out.
    """
    slots = {name: f"s{k}" for k, name in enumerate(rule.state)}
    source = _ADAPTER.format(
        slots=", ".join(f"s{k}" for k in range(STATE_SLOTS)),
        parameters=", ".join(slots.get(name, name) for name in parameters_of(rule, formula)),
        results=", ".join(["step", *slots.values()]),
    )
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, f"<the formula of {rule.name}>", "exec"), scope)
    return wrap(scope["make"](wrap(formula)))


def plan_element(plan: Plan, wrap: Any) -> Any:
    """The element of a plan's rule, in the form that its options need."""
    return make_element(plan.rule, plan.element(), wrap)

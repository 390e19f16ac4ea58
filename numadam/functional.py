"""The bare face: one step of a rule on arrays that the caller owns, without an object."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

from numadam.dispatch import engine_for
from numadam.engine import BareStep
from numadam.rules.base import LR, RuleSpec


@functools.lru_cache(maxsize=256)
def _checked(rule: RuleSpec, *items: tuple[str, Any]) -> dict[str, Any]:
    # checking costs 2 us, and a caller's options are the same at every step
    return rule.check(dict(items))


def update(
    rule: RuleSpec,
    p: Any,
    g: Any,
    state: Mapping[str, Any],
    t: int,
    lr: float,
    out: Any,
    **options: Any,
) -> None:
    """One step of `rule`: check the numbers, dispatch on the type of `p`, step.

    `state` holds the caller's state arrays by name; those that the options do not need are None.
    """
    try:
        checked = _checked(rule, *options.items())
    except TypeError:  # what cannot be hashed; or no number, and then this says so
        checked = rule.check(options)
    rate = LR.check(lr)
    try:
        number = operator.index(t)
    except TypeError:
        raise TypeError(f"t: expected an int, got {type(t).__name__} ({t!r}).") from None
    if not 1 <= number < 2**53:
        raise ValueError(f"t: expected the number of this step, 1 at the first, got {t!r}.")
    used = {name: state[name] for name in rule.present(checked)}
    call = BareStep(rule, checked, p, g, used, number, rate, out)
    engine_for([p], ["p"]).update(call)

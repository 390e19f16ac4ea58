"""The functional API: one step of a rule on arrays that the caller owns, without an object."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from numadam._arrays.interop import as_views
from numadam._backend import FunctionalStep
from numadam._core import options as op
from numadam._core.hyper import LR
from numadam._core.keywords import FunctionalOptions
from numadam._core.rule import RuleSpec, named
from numadam._core.scalars import is_float32
from numadam._optimizer.dispatch import backend_for
from numadam._settings.bounds import OPEN, scalar_bounds
from numadam._settings.settings import Settings


@functools.lru_cache(maxsize=256)
def _settings(
    rule: RuleSpec,
    title: str,
    dtype: np.dtype[Any],
    shared: tuple[tuple[str, Any], ...],
    own: tuple[tuple[str, Any], ...],
) -> Settings:
    # cached: a caller's options are the same at every step, and checking them takes long
    for name, value in (*shared, *own):
        if name in op.DEFAULTS and name not in FunctionalOptions.__annotations__:
            raise TypeError(
                f"{title}: {name} needs arrays or counters that an optimiser object owns."
            )
        if callable(value):
            raise TypeError(f"{name}: expected the number of this step, got a callable.")
    options = op.check(rule, title, dict(shared), dict(own))
    like = np.empty(0, dtype)
    pairs = [OPEN]
    if options["bounds"] is not None:
        pairs = [scalar_bounds(options["bounds"], like, title)]
    settings = Settings(rule, options, [like], ["p"], [{}], pairs)
    # bounds have a row of their own; there is one array, and one row is enough
    (row,) = settings.group_of_leaf
    settings.control, settings.group_of_leaf = settings.control[row : row + 1].copy(), [0]
    return settings


#: Running products after so many steps, of the latest options.
_memory: dict[Any, tuple[int, tuple[float, ...]]] = {}
_REMEMBERED = 256


def _products(settings: Settings, t: int) -> tuple[float, ...]:
    """The running products before step t, remembered from the call before."""
    plan = settings.plan
    if not plan.products:
        return ()
    row, key = settings.control[0, op.RULE :], (plan, settings.control.tobytes())
    done, q = _memory.pop(key, (0, (1.0,) * len(plan.products)))
    if done > t - 1:
        done, q = 0, (1.0,) * len(plan.products)
    if done < t - 1:
        kind, single = named("Products", plan.products), is_float32(plan.real)
        c = plan.rule.hyper_type(*row)
        for step in range(done + 1, t):
            q = plan.advance(c, kind(*q), float(step), single)
    _memory[key] = t - 1, tuple(q)
    for old in list(_memory)[: max(0, len(_memory) - _REMEMBERED)]:
        _memory.pop(old, None)
    return q


def update(
    rule: RuleSpec,
    title: str,
    p: Any,
    g: Any,
    state: Mapping[str, Any],
    t: int,
    lr: float,
    out: Any,
    shared: Mapping[str, Any],
    own: Mapping[str, Any],
) -> None:
    """One step of `rule`: check the numbers, dispatch on the type of `p`, step.

    `state` holds the caller's state arrays by name; those that the options do not need are None.
    """
    backend = backend_for([p], ["p"])
    (p,) = as_views([p], backend.home, written=out is None)
    backend.check_params([p], ["p"])
    given = tuple(shared.items()), tuple(own.items())
    try:
        settings = _settings(rule, title, p.dtype, *given)
    except TypeError:  # what cannot be hashed; or no number, and then this says so
        settings = _settings.__wrapped__(rule, title, p.dtype, *given)
    rate = LR.check(lr)
    try:
        number = operator.index(t)
    except TypeError:
        raise TypeError(f"t: expected an int, got {type(t).__name__} ({t!r}).") from None
    if not 1 <= number < 2**53:
        raise ValueError(f"t: expected the number of this step, 1 at the first, got {t!r}.")
    used = {name: state[name] for name in settings.plan.present}
    q = _products(settings, number)
    backend.update(FunctionalStep(settings, q, p, g, used, number, rate, out))

"""Gradient descent, with momentum (Polyak 1964) and Nesterov's look ahead (Nesterov 1983)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numadam.optimizer import Optimizer, Schedule, hyper
from numadam.rules.base import Hyper, RuleSpec, Scalars


def formula(nesterov: bool) -> Callable[..., Any]:
    """M = momentum m + g;  step = lr m, or with Nesterov lr (g + momentum m)."""

    def element(p, g, m, _s1, _s2, h):
        momentum, lr, tiny, zero = h
        if m is None:
            direction = g
        else:
            m = momentum * m + g
            if abs(m) < tiny:
                m = zero
            direction = g + momentum * m if nesterov else m
        return lr * direction, m, _s1, _s2

    return element


def scalars(c: Any, lr: float, t: float) -> Scalars:
    """The same at every step."""
    return c[0], lr


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Without momentum there is no state at all."""
    return ("m",) if options["momentum"] != 0.0 else ()


def refuse(options: Mapping[str, Any]) -> str:
    if options["nesterov"] and options["momentum"] == 0.0:
        return "nesterov: needs momentum > 0, e.g. momentum=0.9."
    return ""


SGD_RULE = RuleSpec(
    name="sgd",
    state=("m",),
    hypers=(Hyper("momentum", 0.0, 0.0, 1.0),),
    formula=formula,
    scalars=scalars,
    present=present,
    variant=("nesterov",),
    refuse=refuse,
)


class SGD(Optimizer):
    rule = SGD_RULE
    momentum = hyper()

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-2,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self._setup(params, lr, momentum=momentum, nesterov=nesterov)

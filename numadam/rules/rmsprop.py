"""RMSprop (Tieleman & Hinton 2012): the gradient over the root of its running mean square."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from numadam.optimizer import Optimizer, Schedule, hyper
from numadam.rules.base import EPS, Hyper, RuleSpec, Scalars


def formula() -> Callable[..., Any]:
    """V = beta2 v + (1 - beta2) g^2;  step = lr g / (sqrt(v) + eps)."""

    def element(p, g, v, _s1, _s2, h):
        beta2, alpha2, lr, eps, _tiny, zero = h
        v = beta2 * v + alpha2 * (g * g)
        d = math.sqrt(v) + eps
        step = (lr * g) / d if d != zero else zero
        return step, v, _s1, _s2

    return element


def scalars(c: Any, lr: float, t: float) -> Scalars:
    """RMSprop has no bias correction: its scalars do not depend on t."""
    beta2, eps = c[0], c[1]
    return beta2, 1.0 - beta2, lr, eps


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    return ("v",)


RMSPROP = RuleSpec(
    name="rmsprop",
    state=("v",),
    hypers=(Hyper("beta2", 0.99, 0.0, 1.0), EPS),
    formula=formula,
    scalars=scalars,
    present=present,
)


class RMSprop(Optimizer):
    rule = RMSPROP
    beta2, eps = hyper(), hyper()

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-2,
        *,
        beta2: float = 0.99,
        eps: float = 1e-8,
    ) -> None:
        self._setup(params, lr, beta2=beta2, eps=eps)

"""Adam (Kingma & Ba 2015), and AMSGrad (Reddi et al. 2018) on the same formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from numadam.optimizer import Optimizer, Schedule, hyper
from numadam.rules.base import EPS, Hyper, RuleSpec, Scalars


def formula() -> Callable[..., Any]:
    """M = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  step = s m / (sqrt(v) + e)."""

    def element(p, g, m, v, vmax, h):
        beta1, alpha1, beta2, alpha2, s, e, tiny, zero = h
        m = beta1 * m + alpha1 * g
        if abs(m) < tiny:  # a denormal m would slow the CPU down for ever; NaN stays
            m = zero
        v = beta2 * v + alpha2 * (g * g)
        if vmax is None:
            u = v
        else:
            if not vmax >= v:  # also where v is NaN
                vmax = v
            u = vmax
        d = math.sqrt(u) + e
        step = (s * m) / d if d != zero else zero
        return step, m, v, vmax

    return element


def scalars(c: Any, lr: float, t: float) -> Scalars:
    """Both eps forms are one formula: the paper's m/c1 / (sqrt(v/c2) + eps) is multiplied through
    by sqrt(c2), which leaves eps*sqrt(c2) where the hat form has eps.
    """
    beta1, beta2, eps, hat = c[0], c[1], c[2], c[3]
    c1 = 1.0 - math.pow(beta1, t)
    root = math.sqrt(1.0 - math.pow(beta2, t))
    e = eps if hat != 0.0 else eps * root
    return beta1, 1.0 - beta1, beta2, 1.0 - beta2, lr * root / c1, e


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """AMSGrad's running maximum is there only when asked for."""
    return ("m", "v", "vmax") if options["amsgrad"] else ("m", "v")


def control(options: Mapping[str, Any]) -> tuple[float, ...]:
    """The eps form is a switch in the control block: no second kernel."""
    return (1.0 if options["eps_form"] == "hat" else 0.0,)


def refuse(options: Mapping[str, Any]) -> str:
    if options["eps_form"] not in ("paper", "hat"):
        return f"eps_form: expected 'paper' or 'hat', got {options['eps_form']!r}."
    if options["beta2"] == 1.0 and options["eps_form"] == "paper":
        return "beta2: 1.0 is only possible with eps_form='hat'; use a number in [0, 1)."
    return ""


ADAM = RuleSpec(
    name="adam",
    state=("m", "v", "vmax"),
    hypers=(
        Hyper("beta1", 0.9, 0.0, 1.0),
        Hyper("beta2", 0.999, 0.0, 1.0, closed=True),
        EPS,
    ),
    formula=formula,
    scalars=scalars,
    present=present,
    control=control,
    refuse=refuse,
)


class Adam(Optimizer):
    rule = ADAM
    beta1, beta2, eps = hyper(), hyper(), hyper()

    def __init__(
        self,
        params: Any,
        lr: float | Schedule = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        amsgrad: bool = False,
        eps_form: str = "paper",
    ) -> None:
        self._setup(
            params, lr, beta1=beta1, beta2=beta2, eps=eps, amsgrad=amsgrad, eps_form=eps_form
        )

"""Adam (Kingma & Ba 2015), and AMSGrad (Reddi et al. 2018) on the same formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numadam._core.hyper import BETA1, EPS, EPS_ROOT, Hyper
from numadam._core.rule import RuleSpec
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer
from numadam.rules._moments import (
    adam_formula,
    adam_scalars,
    amsgrad_by_array,
    tf1_advance,
    tf1_scalars,
)

#: Presets whose moments are formed as TensorFlow's kernel forms them: m + (1 - beta1)(g - m).
LERP = ("keras", "tf1")


def variant(options: Mapping[str, Any]) -> dict[str, bool]:
    """Which of the formula's forms these options need."""
    return {
        "lerp": options["like"] in LERP,
        "textbook": options["like"] == "numpy",
        "nesterov": options["nesterov"],
        "vhat": options["amsgrad"] == "vhat",
    }


def present(options: Mapping[str, Any]) -> tuple[str, ...]:
    """AMSGrad's running maximum is there only when asked for."""
    return ("m", "v", "vmax") if options["amsgrad"] is not False else ("m", "v")


def refuse(options: Mapping[str, Any]) -> str:
    """The problem of options that contradict each other, or ""."""
    hat, amsgrad = options["eps_form"] == "hat", options["amsgrad"]
    if options["beta2"] == 1.0 and not hat:
        return "beta2: 1.0 is only possible with eps_form='hat'; use a number in [0, 1)."
    if options["like"] in LERP and not hat:
        return f"eps_form: like={options['like']!r} repeats the hat form; leave eps_form out."
    if hat and amsgrad == "vhat":
        return "amsgrad: 'vhat' corrects v first, eps_form='hat' does not: use 'v', or 'paper'."
    if hat and options["like"] == "numpy":
        return "eps_form: like='numpy' divides as in the paper; use like='sklearn' for 'hat'."
    return ""


ADAM = RuleSpec(
    name="adam",
    state=("m", "v", "vmax"),
    nonnegative=("v", "vmax"),
    lasting=("vmax",),
    hypers=(BETA1, Hyper("beta2", 0.0, 1.0, closed=True), EPS, EPS_ROOT),
    defaults=dict(
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        eps_root=0.0,
        eps_form="paper",
        bias_correction=True,
        amsgrad=False,
        nesterov=False,
    ),
    kinds={"eps_form": "EpsForm", "amsgrad": "bool | AMSGrad"},
    formula=adam_formula,
    scalars=adam_scalars,
    present=present,
    variant=variant,
    control={
        "hat": lambda options: options["eps_form"] == "hat",
        "corrected": lambda options: options["bias_correction"] and options["amsgrad"] != "paper",
        "vhat": lambda options: options["amsgrad"] == "vhat",
        "textbook": lambda options: options["like"] == "numpy",
        "nesterov": lambda options: options["nesterov"],
    },
    refuse=refuse,
    powers=("beta1", "beta2"),
    scalars_like={"tf1": tf1_scalars},
    advance_like={"tf1": tf1_advance},
    modulus=lambda options: ("v", "vmax"),
    presets={
        "torch": {"lr": 1e-3, "eps": 1e-8},
        "keras": {"lr": 1e-3, "eps": 1e-7, "eps_form": "hat", "decoupled": True},
        "tf1": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat"},
        "optax": {"lr": 1e-3, "eps": 1e-8, "complex_form": "modulus"},
        "sklearn": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat"},
        "numpy": {"lr": 1e-3, "eps": 1e-8},
    },
)


@optimizer_class
class Adam(Optimizer):
    r"""Adam: steps of about `lr`, whatever the scale of the gradient.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        p_t &= p_{t-1} - lr \, \frac{m_t / (1 - \beta_1^t)}
            {\sqrt{v_t / (1 - \beta_2^t) + eps_{root}} + eps}

    Parameters
    ----------
    {{params}}
    {{lr}}
    {{beta1}}
    beta2 : float in [0, 1] or callable, default 0.999
        Decay of the second moment `v`. 1.0 is possible with ``eps_form="hat"``.
    {{eps}}
    {{eps_root}}
    eps_form : {"paper", "hat"}, default "paper"
        Place of the two eps. "paper": as above. "hat": with the uncorrected `v` (Keras, TensorFlow
        1, scikit-learn), ``lr*sqrt(1-beta2^t)/(1-beta1^t) * m / (sqrt(v + eps_root) + eps)``.
    bias_correction : bool, default True
        False leaves out ``1 - beta1^t`` and ``1 - beta2^t``.
    amsgrad : bool or {"v", "vhat", "paper"}, default False
        Divide by the largest second moment so far (state ``"vmax"``). "v", which True means, takes
        the largest `v` and corrects it at every step (torch, Keras); "vhat" the largest corrected
        ``v / (1 - beta2^t)`` (optax); "paper" the largest `v`, and corrects neither `v` nor `m`
        (Reddi et al.).
    nesterov : bool, default False
        Nesterov momentum: ``beta1*m / (1-beta1^(t+1)) + (1-beta1)*g / (1-beta1^t)`` replaces
        ``m / (1-beta1^t)``. `NAdam` also has Dozat's schedule of beta1.
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"``, ``"m"``, ``"v"`` and, with `amsgrad`, ``"vmax"``.

    See Also
    --------
    AdamW : with decoupled weight decay.
    adam_update : the same step on arrays that the caller owns.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018 (AMSGrad).
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.Adam(x, lr=0.1)
    >>> for _ in range(200):
    ...     opt.step(2 * x)  # the gradient of sum(x**2)
    >>> bool(np.all(abs(x) < 1e-3))
    True
    """

    rule = ADAM


adam_update = update_function(Adam, amsgrad_by_array)

"""Gradient descent, with momentum (Polyak 1964) and Nesterov's look ahead (Nesterov 1983)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numadam._core.hyper import Hyper
from numadam._core.rule import RuleSpec, Scalars
from numadam._optimizer.declared import optimizer_class, update_function
from numadam._optimizer.optimizer import Optimizer
from numadam.rules._moments import refuse_lone_buffer


def formula(nesterov: bool) -> Callable[..., Any]:
    """M = momentum m + share g;  step = lr m, or with Nesterov lr (g + momentum m)."""

    def element(p, g, m, h):
        if m is None:
            direction = g
        else:
            m = (h.momentum * m if h.momentum != h.zero else h.zero) + h.share * g
            direction = g + h.momentum * m if nesterov else m
        return h.lr * direction, m

    return element


def scalars(c: Any, q: Any, lr: float, t: float) -> Scalars:
    """The share of the gradient in the momentum is all of the first one (torch)."""
    return dict(momentum=c.momentum, share=1.0 if t == 1.0 else 1.0 - c.dampening, lr=lr)


def refuse(options: Mapping[str, Any]) -> str:
    """The problem of options that contradict each other, or ""."""
    if options["nesterov"] and options["momentum"] == 0.0:
        return "nesterov: needs momentum > 0, e.g. momentum=0.9."
    if options["dampening"] != 0.0 and options["momentum"] == 0.0:
        return "dampening: needs momentum > 0, e.g. momentum=0.9."
    if options["dampening"] != 0.0 and options["nesterov"]:
        return "dampening: nesterov=True has none; use 0."
    return ""


SGD_RULE = RuleSpec(
    name="sgd",
    state=("m",),
    hypers=(Hyper("momentum", 0.0, 1.0), Hyper("dampening", 0.0, 1.0, closed=True)),
    lr=1e-2,
    defaults=dict(momentum=0.0, dampening=0.0, nesterov=False),
    formula=formula,
    scalars=scalars,
    present=lambda options: ("m",) if options["momentum"] != 0.0 else (),
    variant=lambda options: {"nesterov": options["nesterov"]},
    refuse=refuse,
    modulus=lambda options: (),
    presets={
        "torch": {"lr": 1e-3},
        "keras": {"lr": 1e-2, "decoupled": True},
        "optax": {"complex_form": "modulus"},
    },
)


@optimizer_class
class SGD(Optimizer):
    r"""SGD: gradient descent, plain, with momentum, or with Nesterov momentum.

    .. math::
        m_t = momentum \cdot m_{t-1} + (1 - dampening) \, g_t, \qquad
        p_t = p_{t-1} - lr \cdot m_t

    With `nesterov` the step is ``lr * (g + momentum * m)``; without momentum it is ``lr * g``.

    Parameters
    ----------
    {{params}}
    lr : float >= 0, callable, array, or nesting of these, default 1e-2
        Learning rate, in units of the parameters over those of the gradient. A callable gets the
        number of steps already taken, 0 at the first. An array sets it by element, a nesting like
        that of `params` by array.
    momentum : float in [0, 1) or callable, default 0.0
        Decay of the buffer `m`; 0.0 has no buffer.
    dampening : float in [0, 1] or callable, default 0.0
        Share of the gradient that the buffer does not get. It gets all of the first gradient, as
        in torch.
    nesterov : bool, default False
        Nesterov momentum, as in torch and Keras. Not with `dampening`.
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"`` and, with momentum, ``"m"``.

    See Also
    --------
    sgd_update : the same step on arrays that the caller owns.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.SGD(x, lr=0.05, momentum=0.9)
    >>> for _ in range(200):
    ...     opt.step(2 * x)
    >>> bool(np.all(abs(x) < 1e-3))
    True
    """

    rule = SGD_RULE


def _by_arrays(arguments: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuse arguments that do not fit each other."""
    refuse_lone_buffer(arguments["m"], options["momentum"])
    if arguments["t"] is None and options["dampening"] != 0.0:
        raise ValueError("t: dampening needs the number of this step; 1, the first, has none.")


sgd_update = update_function(
    SGD,
    _by_arrays,
    optional=("m", "t"),
    t="""\
t : int, optional
    Number of this step, 1 at the first. Only `dampening` needs it.
""",
)

"""AdamW (Loshchilov & Hutter 2019): Adam with decoupled weight decay, in the same compiled loop."""

from __future__ import annotations

import dataclasses

from numadam._optimizer.declared import optimizer_class, update_function
from numadam.rules._moments import amsgrad_by_array
from numadam.rules.adam import ADAM, Adam

ADAMW = dataclasses.replace(
    ADAM,
    decoupled=True,
    defaults={"weight_decay": 0.01, **ADAM.defaults},
    presets={
        "torch": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-2},
        "keras": {"lr": 1e-3, "eps": 1e-7, "eps_form": "hat", "weight_decay": 4e-3},
        "optax": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-4, "complex_form": "modulus"},
    },
)


@optimizer_class
class AdamW(Adam):
    r"""AdamW: Adam with decoupled weight decay, the usual choice for neural networks.

    .. math::
        p_t = p_{t-1} - lr \left( \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + eps}
            + weight\_decay \cdot p_{t-1} \right)

    The moments m and v are those of `Adam`. The decay is equally strong for all elements. L2 decay
    is part of the gradient and is also divided by the root.

    Parameters
    ----------
    {{params}}
    {{lr}}
    weight_decay : float >= 0 or callable, default 0.01
        Strength of the decay: every step subtracts ``lr * weight_decay * p``. In units of 1 / lr.
    beta1, beta2, eps, eps_root, eps_form, bias_correction, amsgrad, nesterov
        As in `Adam`.
    {{shared}}

    Attributes
    ----------
    state : mapping
        ``"t"``, ``"m"``, ``"v"`` and, with `amsgrad`, ``"vmax"``.

    See Also
    --------
    adamw_update : the same step on arrays that the caller owns.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.AdamW(x, lr=0.1, weight_decay=0.5)
    >>> opt.step(np.zeros(2))  # the decay alone
    >>> x
    array([ 2.85, -1.9 ])
    """

    rule = ADAMW


adamw_update = update_function(AdamW, amsgrad_by_array)

# Written by `python tests/generate.py`: do not edit.
# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import VERSION as VERSION
from numadam.nopython.core import Array, Number

__all__: list[str]

def adam_scalars(t: int, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, eps_root: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adam_element`.

    Parameters
    ----------
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 1e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1], default 0.999
        Decay of the second moment `v`.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 0.0
        Added under the root, in units of the gradient squared.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018 (AMSGrad).
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import adam_scalars
    >>> h = adam_scalars(1, lr=0.1)

    """

def adam_element(p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...], vmax: Number | None = None) -> tuple[Any, ...]:
    """One step of one element; formula as in `adam_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
    h : tuple of float
        From `adam_scalars`.
    vmax : float, optional
        State, too.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018 (AMSGrad).
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import adam_element, adam_scalars
    >>> h = adam_scalars(1, lr=0.1)
    >>> p, m, v = adam_element(1.0, 1.0, 0.0, 0.0, h)
    >>> p < 1.0
    True

    """

def adam_update(p: Array, g: Array, m: Array, v: Array, t: int, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, eps_root: float = 0.0, vmax: Array | None = None) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.Adam`.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        p &= p - lr \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t) + eps_{root}} + eps}

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        State, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 1e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1], default 0.999
        Decay of the second moment `v`.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 0.0
        Added under the root, in units of the gradient squared.
    vmax : array, optional
        Largest second moment so far, zeros before the first step: AMSGrad, "v" unless said otherwise;
        modified in place.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", ICLR 2018 (AMSGrad).
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adam_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adam_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def adamw_scalars(t: int, lr: float = 0.001, weight_decay: float = 0.01, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, eps_root: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adamw_element`.

    Parameters
    ----------
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 1e-3
        Learning rate, in units of the parameters.
    weight_decay : float >= 0, default 0.01
        Share of the parameters that is lost, times lr, at every step; in units of 1 / lr.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1], default 0.999
        Decay of the second moment `v`.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 0.0
        Added under the root, in units of the gradient squared.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> from numadam.nopython import adamw_scalars
    >>> h = adamw_scalars(1, lr=0.1)

    """

def adamw_element(p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...], vmax: Number | None = None) -> tuple[Any, ...]:
    """One step of one element; formula as in `adamw_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
    h : tuple of float
        From `adamw_scalars`.
    vmax : float, optional
        State, too.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> from numadam.nopython import adamw_element, adamw_scalars
    >>> h = adamw_scalars(1, lr=0.1)
    >>> p, m, v = adamw_element(1.0, 1.0, 0.0, 0.0, h)
    >>> p < 1.0
    True

    """

def adamw_update(p: Array, g: Array, m: Array, v: Array, t: int, lr: float = 0.001, weight_decay: float = 0.01, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, eps_root: float = 0.0, vmax: Array | None = None) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.AdamW`.

    .. math::
        p = p - lr \left( \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + eps}
            + weight\_decay \cdot p \right)

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        State, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 1e-3
        Learning rate, in units of the parameters.
    weight_decay : float >= 0, default 0.01
        Share of the parameters that is lost, times lr, at every step; in units of 1 / lr.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1], default 0.999
        Decay of the second moment `v`.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 0.0
        Added under the root, in units of the gradient squared.
    vmax : array, optional
        Largest second moment so far, zeros before the first step: AMSGrad, "v" unless said otherwise;
        modified in place.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adamw_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adamw_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def nadam_product(t: int, mu_product: float, beta1: float = 0.9, momentum_decay: float = 0.004) -> float:
    """The product of the momenta up to step t, from that of the step before.

        ``mu_product * mu_t`` with ``mu_t = beta1 * (1 - 0.96**(t*momentum_decay) / 2)``

        Parameters
        ----------
        t : int
            Number of the step: 1 at the first.
        mu_product : float
            The product before it: 1.0 at the first.
        beta1, momentum_decay : float
            As in `nadam_update`.

        Returns
        -------
        float64
            The `mu_product` that `nadam_scalars` takes at the next step.

        References
        ----------
        Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

        Examples
        --------
        >>> from numadam.nopython import nadam_product, nadam_scalars
        >>> round(nadam_product(1, 1.0, momentum_decay=0.0), 6)
        0.45
        >>> nadam_scalars(2, mu_product=nadam_product(1, 1.0)) == nadam_scalars(2)
        True
    
    """

def nadam_scalars(t: int, lr: float = 0.002, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, momentum_decay: float = 0.004, weight_decay: float = 0.0, mu_product: float | None = None) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `nadam_element`.

    Parameters
    ----------
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 2e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, and the momentum in the end.
    beta2 : float in [0, 1), default 0.999
        Decay of the second moment `v`.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    momentum_decay : float >= 0, default 4e-3
        Rate at which the momentum grows from ``beta1/2`` to `beta1`.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.
    mu_product : float, optional
        Product of the momenta before this step, 1.0 at the first.
        It is no power, so it has to be carried from step to step. Without it each step forms all
        momenta again, t - 1 powers, about 15 ns each.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_scalars
    >>> h = nadam_scalars(1, lr=0.1)

    """

def nadam_update(p: Array, g: Array, m: Array, v: Array, t: int, lr: float = 0.002, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, momentum_decay: float = 0.004, weight_decay: float = 0.0, mu_product: Array | None = None) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.NAdam`.

    .. math::
        \mu_t &= \beta_1 (1 - 0.96^{t \, momentum\_decay} / 2), \qquad
            P_t = \mu_1 \mu_2 \cdots \mu_t \\
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        p &= p - lr \, \frac{\mu_{t+1} m / (1 - P_{t+1}) + (1 - \mu_t) g / (1 - P_t)}
            {\sqrt{v / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        State, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 2e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, and the momentum in the end.
    beta2 : float in [0, 1), default 0.999
        Decay of the second moment `v`.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    momentum_decay : float >= 0, default 4e-3
        Rate at which the momentum grows from ``beta1/2`` to `beta1`.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.
    mu_product : array of one float64, optional
        Product of the momenta before this step, ``np.ones(1)`` at the first.
        It is no power, so it has to be carried from step to step. Without it each step forms all
        momenta again, t - 1 powers, about 15 ns each.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import nadam_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> nadam_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def nadam_element(p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `nadam_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
    h : tuple of float
        From `nadam_scalars`.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> from numadam.nopython import nadam_element, nadam_scalars
    >>> h = nadam_scalars(1, lr=0.1)
    >>> p, m, v = nadam_element(1.0, 1.0, 0.0, 0.0, h)
    >>> p < 1.0
    True

    """

def radam_scalars(t: int, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, weight_decay: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `radam_element`.

    Parameters
    ----------
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 1e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of the second moment `v`.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> from numadam.nopython import radam_scalars
    >>> h = radam_scalars(1, lr=0.1)

    """

def radam_element(p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `radam_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
    h : tuple of float
        From `radam_scalars`.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> from numadam.nopython import radam_element, radam_scalars
    >>> h = radam_scalars(1, lr=0.1)
    >>> p, m, v = radam_element(1.0, 1.0, 0.0, 0.0, h)
    >>> p < 1.0
    True

    """

def radam_update(p: Array, g: Array, m: Array, v: Array, t: int, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, weight_decay: float = 0.0) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.RAdam`.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad v = \beta_2 v + (1 - \beta_2) g^2 \\
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
            \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t} \\
        r &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
                {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}} \\
        p &= p - lr \, \frac{m}{1 - \beta_1^t} \cdot
            \frac{r \sqrt{1 - \beta_2^t}}{\sqrt{v} + eps} \quad \text{if} \quad \rho_t > 5 \\
        p &= p - lr \, \frac{m}{1 - \beta_1^t} \quad \text{otherwise}

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        State, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 1e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of the second moment `v`.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", ICLR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import radam_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> radam_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def adamax_scalars(t: int, lr: float = 0.002, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, weight_decay: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adamax_element`.

    Parameters
    ----------
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 2e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of the norm `u`.
    eps : float >= 0, default 1e-8
        Smallest divisor, in units of the gradient.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.1.

    Examples
    --------
    >>> from numadam.nopython import adamax_scalars
    >>> h = adamax_scalars(1, lr=0.1)

    """

def adamax_element(p: Number, g: Number, m: Number, u: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `adamax_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, u : float
        State of the element.
    h : tuple of float
        From `adamax_scalars`.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.1.

    Examples
    --------
    >>> from numadam.nopython import adamax_element, adamax_scalars
    >>> h = adamax_scalars(1, lr=0.1)
    >>> p, m, u = adamax_element(1.0, 1.0, 0.0, 0.0, h)
    >>> p < 1.0
    True

    """

def adamax_update(p: Array, g: Array, m: Array, u: Array, t: int, lr: float = 0.002, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-08, weight_decay: float = 0.0) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.AdaMax`.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g, \qquad u = \max(\beta_2 u, |g| + eps) \\
        p &= p - \frac{lr}{1 - \beta_1^t} \, \frac{m}{u}

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, u : array
        State, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 2e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of the norm `u`.
    eps : float >= 0, default 1e-8
        Smallest divisor, in units of the gradient.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.1.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adamax_update
    >>> p, m, u = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adamax_update(p, np.array([1.0, -1.0]), m, u, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def adabelief_scalars(t: int, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-16, eps_root: float = 1e-16, weight_decay: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adabelief_element`.

    Parameters
    ----------
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 1e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of `v`, the running variance of the gradient about `m`.
    eps : float >= 0, default 1e-16
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 1e-16
        Added to `v` at every step and kept in it, in units of the gradient squared.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    NeurIPS 2020.

    Examples
    --------
    >>> from numadam.nopython import adabelief_scalars
    >>> h = adabelief_scalars(1, lr=0.1)

    """

def adabelief_element(p: Number, g: Number, m: Number, v: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `adabelief_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m, v : float
        State of the element.
    h : tuple of float
        From `adabelief_scalars`.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    NeurIPS 2020.

    Examples
    --------
    >>> from numadam.nopython import adabelief_element, adabelief_scalars
    >>> h = adabelief_scalars(1, lr=0.1)
    >>> p, m, v = adabelief_element(1.0, 1.0, 0.0, 0.0, h)
    >>> p < 1.0
    True

    """

def adabelief_update(p: Array, g: Array, m: Array, v: Array, t: int, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-16, eps_root: float = 1e-16, weight_decay: float = 0.0) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.AdaBelief`.

    .. math::
        m &= \beta_1 m + (1 - \beta_1) g \\
        v &= \beta_2 v + (1 - \beta_2) (g - m)^2 + eps_{root} \\
        p &= p - lr \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + eps}

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m, v : array
        State, zeros before the first step; modified in place.
    t : int
        Number of this step: 1 at the first.
    lr : float >= 0, default 1e-3
        Learning rate, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Decay of the first moment `m`, the running mean of the gradient.
    beta2 : float in [0, 1), default 0.999
        Decay of `v`, the running variance of the gradient about `m`.
    eps : float >= 0, default 1e-16
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 1e-16
        Added to `v` at every step and kept in it, in units of the gradient squared.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
    NeurIPS 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adabelief_update
    >>> p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    >>> adabelief_update(p, np.array([1.0, -1.0]), m, v, 1, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def lion_scalars(lr: float = 0.0001, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `lion_element`.

    Parameters
    ----------
    lr : float >= 0, default 1e-4
        Length of every step, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Weight of the momentum beside the gradient in the step.
    beta2 : float in [0, 1), default 0.99
        Decay of the momentum `m`.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> from numadam.nopython import lion_scalars
    >>> h = lion_scalars(lr=0.1)

    """

def lion_element(p: Number, g: Number, m: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `lion_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    m : float
        State of the element.
    h : tuple of float
        From `lion_scalars`.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> from numadam.nopython import lion_element, lion_scalars
    >>> h = lion_scalars(lr=0.1)
    >>> p, m = lion_element(1.0, 1.0, 0.0, h)
    >>> p < 1.0
    True

    """

def lion_update(p: Array, g: Array, m: Array, lr: float = 0.0001, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.Lion`.

    .. math::
        p = p - lr \, \mathrm{sign}(\beta_1 m + (1 - \beta_1) g), \qquad
        m = \beta_2 m + (1 - \beta_2) g

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    m : array
        State, zeros before the first step; modified in place.
    lr : float >= 0, default 1e-4
        Length of every step, in units of the parameters.
    beta1 : float in [0, 1), default 0.9
        Weight of the momentum beside the gradient in the step.
    beta2 : float in [0, 1), default 0.99
        Decay of the momentum `m`.
    weight_decay : float >= 0, default 0.0
        Strength of the decay of the parameters towards 0.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import lion_update
    >>> p, m = np.ones(2), np.zeros(2)
    >>> lion_update(p, np.array([1.0, -1.0]), m, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def rmsprop_scalars(lr: float = 0.01, beta2: float = 0.99, eps: float = 1e-08, eps_root: float = 0.0, momentum: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `rmsprop_element`.

    Parameters
    ----------
    lr : float >= 0, default 0.01
        Learning rate, in units of the parameters.
    beta2 : float in [0, 1), default 0.99
        Decay of the mean square `v` and of the mean.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 0.0
        Added under the root, in units of the gradient squared (Keras, optax).
    momentum : float in [0, 1), default 0.0
        Decay of the buffer `m`; 0.0 has no buffer.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.
    Graves, "Generating Sequences With Recurrent Neural Networks", 2013.

    Examples
    --------
    >>> from numadam.nopython import rmsprop_scalars
    >>> h = rmsprop_scalars(lr=0.1)

    """

def rmsprop_element(p: Number, g: Number, v: Number, h: tuple[float, ...], mean: Number | None = None, m: Number | None = None) -> tuple[Any, ...]:
    """One step of one element; formula as in `rmsprop_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    v : float
        State of the element.
    h : tuple of float
        From `rmsprop_scalars`.
    mean : float, optional
        State, too.
    m : float, optional
        State, too.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.
    Graves, "Generating Sequences With Recurrent Neural Networks", 2013.

    Examples
    --------
    >>> from numadam.nopython import rmsprop_element, rmsprop_scalars
    >>> h = rmsprop_scalars(lr=0.1)
    >>> p, v = rmsprop_element(1.0, 1.0, 0.0, h)
    >>> p < 1.0
    True

    """

def rmsprop_update(p: Array, g: Array, v: Array, lr: float = 0.01, beta2: float = 0.99, eps: float = 1e-08, eps_root: float = 0.0, momentum: float = 0.0, mean: Array | None = None, m: Array | None = None) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.RMSprop`.

    .. math::
        v = \beta_2 v + (1 - \beta_2) g^2, \qquad
        p = p - lr \, \frac{g}{\sqrt{v + eps_{root}} + eps}

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    v : array
        State, zeros before the first step; modified in place.
    lr : float >= 0, default 0.01
        Learning rate, in units of the parameters.
    beta2 : float in [0, 1), default 0.99
        Decay of the mean square `v` and of the mean.
    eps : float >= 0, default 1e-8
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 0.0
        Added under the root, in units of the gradient squared (Keras, optax).
    momentum : float in [0, 1), default 0.0
        Decay of the buffer `m`; 0.0 has no buffer.
    mean : array, optional
        Mean of the gradient, zeros before the first step: RMSprop is centered; modified in place.
    m : array, optional
        Momentum buffer, zeros before the first step; modified in place. It is there exactly where
        `momentum` is not 0.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Tieleman and Hinton, "Lecture 6.5: RMSProp", COURSERA Neural Networks, 2012.
    Graves, "Generating Sequences With Recurrent Neural Networks", 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import rmsprop_update
    >>> p, v = np.ones(2), np.zeros(2)
    >>> rmsprop_update(p, np.array([1.0, -1.0]), v, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def sgd_scalars(lr: float = 0.01, momentum: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `sgd_element`.

    Parameters
    ----------
    lr : float >= 0, default 0.01
        Learning rate, in units of the parameters over those of the gradient.
    momentum : float in [0, 1), default 0.0
        Decay of the buffer `m`; 0.0 has no buffer.

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.

    Examples
    --------
    >>> from numadam.nopython import sgd_scalars
    >>> h = sgd_scalars(lr=0.1)

    """

def sgd_element(p: Number, g: Number, h: tuple[float, ...], m: Number | None = None) -> Any:
    """One step of one element; formula as in `sgd_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    h : tuple of float
        From `sgd_scalars`.
    m : float, optional
        State, too.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.

    Examples
    --------
    >>> from numadam.nopython import sgd_element, sgd_scalars
    >>> h = sgd_scalars(lr=0.1)
    >>> p = sgd_element(1.0, 1.0, h)
    >>> p < 1.0
    True

    """

def sgd_update(p: Array, g: Array, m: Array | None = None, lr: float = 0.01, momentum: float = 0.0) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.SGD`.

    .. math::
        m = momentum \cdot m + (1 - dampening) \, g, \qquad p = p - lr \cdot m

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    lr : float >= 0, default 0.01
        Learning rate, in units of the parameters over those of the gradient.
    momentum : float in [0, 1), default 0.0
        Decay of the buffer `m`; 0.0 has no buffer.
    m : array, optional
        Momentum buffer, zeros before the first step; modified in place. It is there exactly where
        `momentum` is not 0.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import sgd_update
    >>> p = np.ones(2)
    >>> sgd_update(p, np.array([1.0, -1.0]), lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

def adagrad_scalars(lr: float = 0.01, eps: float = 1e-10, eps_root: float = 0.0) -> tuple[float, ...]:
    """Scalars that all elements share at one step: the argument `h` of `adagrad_element`.

    Parameters
    ----------
    lr : float >= 0, default 0.01
        Learning rate, in units of the parameters.
    eps : float >= 0, default 1e-10
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 0.0
        Added under the root, in units of the gradient squared (Keras, optax).

    Returns
    -------
    tuple of float64
        The same for all elements, which round them to their dtype.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", JMLR 12, 2011.

    Examples
    --------
    >>> from numadam.nopython import adagrad_scalars
    >>> h = adagrad_scalars(lr=0.1)

    """

def adagrad_element(p: Number, g: Number, v: Number, h: tuple[float, ...]) -> tuple[Any, ...]:
    """One step of one element; formula as in `adagrad_update`.

    Parameters
    ----------
    p, g : float32 or float64
        Parameter and gradient. The computation is in the type of `p`.
    v : float
        State of the element.
    h : tuple of float
        From `adagrad_scalars`.

    Returns
    -------
    float, or tuple of float
        The new p; with state, the new p and state.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", JMLR 12, 2011.

    Examples
    --------
    >>> from numadam.nopython import adagrad_element, adagrad_scalars
    >>> h = adagrad_scalars(lr=0.1)
    >>> p, v = adagrad_element(1.0, 1.0, 0.0, h)
    >>> p < 1.0
    True

    """

def adagrad_update(p: Array, g: Array, v: Array, lr: float = 0.01, eps: float = 1e-10, eps_root: float = 0.0) -> None:
    r"""One step in place, inside compiled code; the same numbers as `numadam.Adagrad`.

    .. math::
        v = v + g^2, \qquad p = p - lr \, \frac{g}{\sqrt{v + eps_{root}} + eps}

    Parameters
    ----------
    p : array
        Parameters, float32 or float64, any shape and layout; modified in place.
    g : array
        Gradient, of the shape and dtype of `p`; not modified.
    v : array
        State, zeros before the first step; modified in place.
    lr : float >= 0, default 0.01
        Learning rate, in units of the parameters.
    eps : float >= 0, default 1e-10
        Added to the root, in units of the gradient.
    eps_root : float >= 0, default 0.0
        Added under the root, in units of the gradient squared (Keras, optax).

    Raises
    ------
    ValueError
        For arguments that do not fit each other, such as arrays of different shapes, and for t below
        1. Different dtypes are a compile error. A CUDA kernel shows no such error: its thread ends.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from numadam.nopython import adagrad_update
    >>> p, v = np.ones(2), np.zeros(2)
    >>> adagrad_update(p, np.array([1.0, -1.0]), v, lr=0.1)
    >>> bool(p[0] < 1.0 < p[1])
    True

    """

"""odl.solvers.adam."""

import math

import numpy as np
import odl

import numadam as na


def arrays(x):
    """The arrays of an element, also of a product space."""
    return (
        [a for part in x for a in arrays(part)]
        if hasattr(x, "parts")
        else [x.data]
    )


def adam(
    f,
    x,
    learning_rate=1e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    maxiter=1000,
    tol=1e-16,
    callback=None,
):
    gradient, grad = f.gradient, f.gradient.range.element()
    lr = learning_rate * math.sqrt(1 - beta2) / (1 - beta1)
    options = {
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
        "bias_correction": False,
    }
    opt = na.Adam(arrays(x), lr, like="numpy", **options)
    for _ in range(maxiter):
        gradient(x, out=grad)
        if grad.norm() < tol:
            return
        opt.step(arrays(grad))
        if callback is not None:
            callback(x)


def denoised(solve):
    space = odl.uniform_discr([0, 0], [1, 1], [40, 40])
    noisy = space.element(np.random.default_rng(0).random((40, 40)))
    slope = odl.Gradient(space)
    smooth = odl.functionals.Huber(slope.range, 0.1) * slope
    misfit = odl.functionals.L2NormSquared(space).translated(noisy)
    x = space.zero()
    solve(misfit + 0.1 * smooth, x, maxiter=50)
    return x.data


difference = np.max(np.abs(denoised(adam) - denoised(odl.solvers.adam)))
print(difference)  # of rounding

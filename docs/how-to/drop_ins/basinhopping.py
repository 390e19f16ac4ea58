"""Adam finds the minimum of each basin, SciPy jumps between the basins."""

import numpy as np
import scipy.optimize

import numadam as na


def rastrigin(x):
    f = np.sum(x**2 - 10 * np.cos(2 * np.pi * x) + 10)
    return f, 2 * x + 20 * np.pi * np.sin(2 * np.pi * x)


res = scipy.optimize.basinhopping(
    rastrigin,
    np.full(2, 2.2),
    niter=50,
    stepsize=1.0,
    seed=0,  # in SciPy 1.15 and later also `rng`
    minimizer_kwargs={
        "method": na.scipy_adam,
        "jac": True,
        "options": {"lr": 0.05, "gtol": 1e-4},
    },
)
difference = np.max(np.abs(res.x))
print(difference)  # below 1e-5: the lowest of all minima is at 0

"""A fit of lmfit with Adam as its method."""

import lmfit
import numpy as np

import numadam as na

t = np.linspace(0, 10, 101)
noise = 0.02 * np.random.default_rng(0).standard_normal(t.size)
counts = 3 * np.exp(-t / 2.5) + 0.5 + noise


def residual(params):
    return params["a"] * np.exp(-t / params["tau"]) + params["c"] - counts


start = lmfit.create_params(
    a={"value": 1, "min": 0}, tau={"value": 1, "min": 0.1, "max": 20}, c=0
)
fit = lmfit.Minimizer(residual, start)
theirs = fit.minimize(method="leastsq").params.valuesdict()
ours = fit.scalar_minimize(
    method=na.scipy_adam,
    options={"lr": 0.05, "gtol": 1e-6, "maxiter": 2000},
).params.valuesdict()
difference = max(abs(ours[name] - theirs[name]) for name in ours)
print(difference)  # below 1e-5

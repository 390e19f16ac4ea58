"""A fit of iminuit with Adam as its method."""

import numpy as np
from iminuit import Minuit

import numadam as na

t = np.linspace(0, 10, 101)
noise = 0.02 * np.random.default_rng(0).standard_normal(t.size)
counts = 3 * np.exp(-t / 2.5) + 0.5 + noise


def chi2(a, tau, c):
    return np.sum((a * np.exp(-t / tau) + c - counts) ** 2) / 0.02**2


def chi2_gradient(a, tau, c):
    decay = np.exp(-t / tau)
    pull = 2 * (a * decay + c - counts) / 0.02**2
    by_tau = a * t / tau**2 * decay
    return np.array([pull @ decay, pull @ by_tau, pull.sum()])


minuit = Minuit(chi2, a=1, tau=1, c=0, grad=chi2_gradient)
minuit.limits["tau"] = (0.1, 20)
minuit.tol = 1e-4  # of migrad
theirs = np.array(minuit.migrad().values)
minuit.reset()
minuit.scipy(
    method=na.scipy_adam,
    options={"lr": 0.05, "gtol": 1e-4, "maxiter": 5000},
)
difference = np.max(np.abs(minuit.values - theirs) / minuit.errors)
print(minuit.valid, difference)  # True, below 1e-4 standard errors

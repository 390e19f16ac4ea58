r"""
Error bars of a fit, checked on 4,000 experiments
=================================================

A fit gives numbers. A result is a number with its error. The errors follow
from how steeply the misfit rises around the minimum: a matrix of second
derivatives, which needs a few lines of NumPy after any fit. Four thousand
simulated experiments, fitted in one call, show when these errors are right.

Speed of an enzyme reaction over the concentration of its substrate: 12
measurements, the fitted curve, and the band in which the true curve lies
with a probability of 95 % at each concentration.
"""

import matplotlib.pyplot as plt
import numba
import numpy as np
from scipy.optimize import curve_fit
from scipy.stats import t as student

import numadam as na

# %%
# The data and the model
# ----------------------
# The data are from the reaction of an enzyme in cells treated with
# puromycin (M. A. Treloar, 1974). Bates and Watts, *Nonlinear Regression
# Analysis*, 1988, fit these 12 points, so there are published errors to
# compare with. The model of Michaelis and Menten has two parameters, the
# largest speed :math:`V` and the concentration :math:`K` at which half of
# it is reached:
#
# .. math:: v(c) = \frac{V c}{K + c}
#
# Adam moves each parameter by about lr, so scale all of them to about 1:
# here :math:`V` is measured in 100 counts/min², :math:`K` in 0.1 ppm.
CONCENTRATION = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.10], 2)  # ppm
SPEED = np.array(
    [76.0, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200]
)  # counts/min^2
UNITS = np.array([100.0, 0.1])  # of x


@numba.njit
def misfit(x, g, i, c, speeds):
    """Half the sum of squares of experiment i; g gets the gradient."""
    f = 0.0
    for k in range(c.size):
        share = c[k] / (0.1 * x[1] + c[k])
        r = 100 * x[0] * share - speeds[i, k]
        f += 0.5 * r * r
        g[0] += r * 100 * share
        g[1] -= r * 100 * x[0] * share * 0.1 / (0.1 * x[1] + c[k])
    return f


def fit(c, speeds):
    """Fits of experiments, a row each, all from the same start."""
    return na.minimize_many(
        misfit,
        np.ones((len(speeds), 2)),
        (c, speeds),
        lr=na.schedules.Cosine(0.1, steps=5000),
        beta2=0.99,
        bounds=(0, None),
        maxiter=5000,
    )


best = fit(CONCENTRATION, SPEED[None]).best()
v, k = best.x * UNITS
print(f"V = {v:.1f} counts/min^2, K = {k:.4f} ppm")
assert best.success

# %%
# From slopes to errors
# ---------------------
# :math:`J` holds the derivatives of the model at each measurement with
# respect to each parameter, at the minimum. With :math:`n` measurements,
# :math:`p` parameters and the residuals :math:`r` at the minimum, the noise
# has the variance :math:`s^2`, and the parameters have the covariance
# :math:`C`:
#
# .. math::
#    s^2 = \frac{\sum r^2}{n - p}, \qquad
#    C = s^2 \, (J^\mathrm{T} J)^{-1}
#
# The standard errors are the roots of its diagonal.


def model(c, v, k):
    """Speed at concentration c."""
    return v * c / (k + c)


def jacobian(c, v, k):
    """Derivatives with respect to V and K, of shape (points, 2)."""
    return np.stack([c / (k + c), -v * c / (k + c) ** 2], axis=1)


def covariance(c, v, k, noise):
    """Covariance of V and K, by Gauss and Newton."""
    J = jacobian(c, v, k)
    return noise**2 * np.linalg.inv(J.T @ J)


n, p = SPEED.size, 2
s = np.sqrt(2 * best.fun / (n - p))
cov = covariance(CONCENTRATION, v, k, s)
error = np.sqrt(np.diag(cov))

peer, peer_cov = curve_fit(model, CONCENTRATION, SPEED, p0=[100.0, 0.1])
peer_error = np.sqrt(np.diag(peer_cov))
book = [6.947, 0.008281]
print("                  V       error   K         error")
for name, x, e in [
    ("numadam", (v, k), error),
    ("curve_fit", peer, peer_error),
    ("Bates and Watts", (212.7, 0.06412), book),
]:
    print(f"{name:16} {x[0]:7.2f} {e[0]:7.3f}   {x[1]:.5f} {e[1]:.6f}")
print(f"correlation of V and K: {cov[0, 1] / error.prod():.2f}")

# %%
# The result is ``V ± error``. An interval that holds the true value with a
# probability of 95 % is a little wider than two errors, since :math:`s` is
# known from 12 points only: Student's t gives the factor. The covariance
# also gives the error of everything that is calculated from the parameters,
# here of the curve.
wide = student.ppf(0.975, n - p)
for name, x, e in zip(["V", "K"], [v, k], error, strict=True):
    print(f"{name} between {x - wide * e:.4g} and {x + wide * e:.4g}")

c = np.linspace(0, 1.15, 200)
slopes = jacobian(c, v, k)
band = wide * np.sqrt(np.sum(slopes @ cov * slopes, axis=1))

fig, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
axes.fill_between(
    c, model(c, v, k) - band, model(c, v, k) + band, color="#c6dbef"
)
axes.plot(c, model(c, v, k), color="#2171b5", label="fit, 95 % band")
axes.plot(CONCENTRATION, SPEED, "o", color="#d94801", label="measured")
axes.set(
    title=f"V = {v:.0f} ± {error[0]:.0f} counts/min², "
    f"K = {k:.3f} ± {error[1]:.3f} ppm",
    xlabel="concentration of the substrate (ppm)",
    ylabel="speed of the reaction (counts/min²)",
)
axes.legend(frameon=False, loc="lower right")
plt.show()

# %%
# With a gradient alone
# ---------------------
# Where f is not a sum of squares, or the residuals are hidden in a solver,
# take the Hessian :math:`H`, the second derivatives of f. Differences of
# the gradient give it, with two evaluations for each parameter. If f is a
# negative log-likelihood, or half the sum of squares of residuals divided
# by their known errors, the covariance is :math:`H^{-1}`. For half the sum
# of plain squares it is :math:`s^2 H^{-1}`.


def gradient(x):
    """The gradient of the misfit of the measured data."""
    g = np.zeros(x.size)
    misfit(x, g, 0, CONCENTRATION, SPEED[None])
    return g


def hessian(gradient, x, step=1e-4):
    """Second derivatives by central differences of the gradient."""
    H = [
        (gradient(x + h) - gradient(x - h)) / (2 * step)
        for h in step * np.eye(x.size)
    ]
    return 0.5 * (np.array(H) + np.transpose(H))


inverse = np.linalg.inv(hessian(gradient, best.x))
full = s * np.sqrt(np.diag(inverse)) * UNITS
print(f"errors from the Hessian: {full[0]:.3f} and {full[1]:.6f}")

# %%
# Both estimate the same errors. They differ a little, because the full
# Hessian also contains the curvature of the model times the residuals.
#
# Four thousand experiments
# -------------------------
# Are these errors right? Let the fitted curve be the truth, add noise of
# size :math:`s`, fit again, and repeat: a parametric bootstrap. The scatter
# of the fits is the error. ``minimize_many`` fits all of them at once.
#
# The second case is half of the experiment: only the concentrations up to
# 0.11 ppm, where the curve has hardly begun to level off.
rng = np.random.default_rng(0)


def repeat(c, experiments=4000):
    """V and K of fits to simulated experiments."""
    noise = s * rng.standard_normal((experiments, c.size))
    res = fit(c, model(c, v, k) + noise)
    print(f"{res.success.sum()} of {experiments} have converged")
    return res.x * UNITS


designs = {
    "all concentrations": CONCENTRATION,
    "up to 0.11 ppm only": CONCENTRATION[:6],
}
clouds = {name: repeat(c) for name, c in designs.items()}
print("95 % of the fits              by the formula     by simulation")
for name, cloud in clouds.items():
    by_formula = np.sqrt(np.diag(covariance(designs[name], v, k, s)))
    for what, x, e, column in zip(
        ["V", "K"], [v, k], by_formula, cloud.T, strict=True
    ):
        low, high = np.quantile(column, [0.025, 0.975])
        print(
            f"{name:22} {what}:  {x - 1.96 * e:6.3g} to {x + 1.96 * e:5.3g}"
            f"   {low:6.3g} to {high:5.3g}"
        )

# %%
# The ellipse holds 95 % of the fits, if the formula is right.
angle = np.linspace(0, 2 * np.pi, 200)
circle = np.sqrt(-2 * np.log(0.05)) * np.stack(
    [np.cos(angle), np.sin(angle)]
)
fig, panels = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
for axes, (name, cloud) in zip(panels, clouds.items(), strict=True):
    root = np.linalg.cholesky(covariance(designs[name], v, k, s))
    away = np.linalg.solve(root, (cloud - [v, k]).T)
    inside = np.mean(np.sum(away**2, axis=0) < -2 * np.log(0.05))
    axes.plot(*cloud.T, ".", ms=2, color="#6baed6", rasterized=True)
    ellipse = root @ circle + [[v], [k]]
    axes.plot(*ellipse, color="#d94801")
    axes.plot(v, k, "+", ms=10, color="k")
    axes.set(xlabel="V (counts/min²)", ylabel="K (ppm)")
    axes.set_title(f"{name}: {inside:.0%} inside the ellipse", fontsize=11)
    low = np.minimum(ellipse.min(axis=1), cloud.min(axis=0))
    high = np.quantile(cloud, 0.995, axis=0)  # some are far away
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
plt.show()

# %%
# With all concentrations the formula is right. With the low ones alone it
# is not: the cloud is bent and has a long tail. A larger V with a larger K
# fits these points nearly as well, and no symmetric error shows that.
# (Sometimes the points are so close to a straight line that V grows without
# limit and a fit does not converge.) In this case quote the interval of the
# simulation, or measure at higher concentrations.
#
# When the formula holds
# ----------------------
# - **The fit has converged.** The formula holds at a minimum. Use a
#   decaying learning rate, and check ``success`` and ``grad_norm``. A
#   parameter on a bound has no error of this kind: leave it out of
#   :math:`J`.
# - **The model is right**, and the noise of the measurements is independent
#   and of equal size. If each measurement has a known error, divide its
#   residual, and its row of :math:`J`, by that error, and take
#   :math:`s = 1`.
# - **The model is nearly linear** over the width of the errors. If the
#   cloud is bent, it is not. Another parameter, such as a logarithm, can
#   help.
# - **The data determine all parameters.** Otherwise :math:`J^\mathrm{T} J`
#   has no inverse, or one with huge errors: check the correlations.
#
# None of this comes from Adam. Its average of squared gradients is not a
# curvature, and gives no errors.

r"""
Error bars of a fit, checked on 4,000 experiments
=================================================

A fit gives numbers. A result is a number with its error bar, which follows
from how steeply the misfit rises around the minimum. `least_squares_many`
computes both. Four thousand simulated experiments, fitted in one call, show
when the error bars are right.

Speed of an enzyme reaction over the concentration of its substrate: 12
measurements, the fitted curve, and the band in which the true curve lies
with a probability of 95 % at each concentration.
"""

import matplotlib.pyplot as plt
import numba
import numpy as np
from scipy.stats import t as student

import numadam as na

# %%
# The data and the model
# ----------------------
# Reaction of an enzyme in cells treated with puromycin (M. A. Treloar,
# 1974). Bates and Watts, *Nonlinear Regression Analysis*, 1988, fit these
# 12 points, so there are published errors to compare with. The model of
# Michaelis and Menten has two parameters, the largest speed :math:`V` and
# the concentration :math:`K` at which half of it is reached:
#
# .. math:: v(c) = \frac{V c}{K + c}
CONCENTRATION = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.10], 2)  # ppm
SPEED = np.array(
    [76.0, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200]
)  # counts/min^2


@numba.njit
def residuals(x, r, i, c, speeds):
    """Model minus data of experiment i."""
    for k in range(c.size):
        r[k] = x[0] * c[k] / (x[1] + c[k]) - speeds[i, k]


def fit(c, speeds):
    """Fits of experiments, a row each, all from the same start."""
    start = np.tile([100.0, 0.1], (len(speeds), 1))
    return na.least_squares_many(residuals, start, (c, speeds), m=c.size)


best = fit(CONCENTRATION, SPEED[None])
(v, k), error, cov = best.x[0], best.stderr[0], best.cov[0]
print("                  V       error   K         error")
for name, x, e in [
    ("numadam", (v, k), error),
    ("Bates and Watts", (212.7, 0.06412), (6.947, 0.008281)),
]:
    print(f"{name:16} {x[0]:7.2f} {e[0]:7.3f}   {x[1]:.5f} {e[1]:.6f}")
print(f"correlation of V and K: {cov[0, 1] / error.prod():.2f}")

# %%
# An interval that holds the true value with a probability of 95 % is a
# little wider than two errors, since the noise is known from 12 points
# only: Student's t gives the factor. The covariance also gives the error of
# everything that is calculated from the parameters, here of the curve.


def model(c, v, k):
    """Speed at concentration c."""
    return v * c / (k + c)


wide = student.ppf(0.975, SPEED.size - 2)
c = np.linspace(0, 1.15, 200)
slopes = np.stack([c / (k + c), -v * c / (k + c) ** 2], axis=1)
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
# Four thousand experiments
# -------------------------
# Are these errors right? Take the fitted curve as the truth, add noise, fit
# again, and repeat: a parametric bootstrap. The scatter of the fits is the
# error.
#
# The second case is half of the experiment: only the concentrations up to
# 0.11 ppm, where the curve has hardly begun to level off.
rng = np.random.default_rng(0)
noise = np.sqrt(2 * best.cost[0] / (SPEED.size - 2))


def repeat(c, experiments=4000):
    """Fits to simulated data, and the covariance without noise."""
    exact = model(c, v, k)
    drawn = exact + noise * rng.standard_normal((experiments, c.size))
    J = np.stack([c / (k + c), -v * c / (k + c) ** 2], axis=1)
    return fit(c, drawn).x, noise**2 * np.linalg.inv(J.T @ J)


cases = {
    "all concentrations": repeat(CONCENTRATION),
    "up to 0.11 ppm only": repeat(CONCENTRATION[:6]),
}
print("95 % of the fits              by the formula     by simulation")
for name, (cloud, by_formula) in cases.items():
    half = 1.96 * np.sqrt(np.diag(by_formula))
    ends = np.nanquantile(cloud, [0.025, 0.975], axis=0).T
    for what, x, h, (low, high) in zip(
        "VK", [v, k], half, ends, strict=True
    ):
        print(
            f"{name:22} {what}:  {x - h:6.3g} to {x + h:5.3g}"
            f"   {low:6.3g} to {high:5.3g}"
        )

# %%
# The ellipse holds 95 % of the fits, if the formula is right.
angle = np.linspace(0, 2 * np.pi, 200)
circle = np.sqrt(-2 * np.log(0.05)) * np.stack(
    [np.cos(angle), np.sin(angle)]
)
fig, panels = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained")
for axes, (name, (cloud, by_formula)) in zip(
    panels, cases.items(), strict=True
):
    root = np.linalg.cholesky(by_formula)
    away = np.linalg.solve(root, (cloud - [v, k]).T)
    inside = np.mean(np.sum(away**2, axis=0) < -2 * np.log(0.05))
    axes.plot(*cloud.T, ".", ms=2, color="#6baed6", rasterized=True)
    ellipse = root @ circle + [[v], [k]]
    axes.plot(*ellipse, color="#d94801")
    axes.plot(v, k, "+", ms=10, color="k")
    axes.set(xlabel="V (counts/min²)", ylabel="K (ppm)")
    axes.set_title(f"{name}: {inside:.0%} inside the ellipse", fontsize=11)
    low = np.minimum(
        ellipse.min(axis=1), np.nanquantile(cloud, 0.005, axis=0)
    )
    high = np.nanquantile(cloud, 0.98, axis=0)  # some are far away
    high = np.maximum(high, ellipse.max(axis=1))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
plt.show()

# %%
# With all concentrations the formula is right. With the low ones alone it
# is not: the cloud is bent and has a long tail. A larger V with a larger K
# fits these points nearly as well, and no symmetric error shows that.
# (Sometimes the points are so close to a straight line that V grows without
# limit.) In this case quote the interval of the simulation, or measure at
# higher concentrations.
#
# The formula assumes that the model is right and nearly linear over the
# width of the errors, that the noise is independent, and that the data
# determine all parameters.

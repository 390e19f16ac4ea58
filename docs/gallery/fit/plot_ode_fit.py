r"""
Fit the parameters of an ODE: hares and lynxes
==============================================

The Hudson's Bay Company counted the furs that it bought. The numbers of
hares, and of the lynxes that eat them, rise and fall in turn. Here the
equations of Lotka and Volterra are fitted to twenty years of counts.
Simulation, derivatives and optimiser are all compiled, so a fit takes
milliseconds and can be repeated from many starts.

Furs of hares and lynxes in thousands a year, and the fitted model.
"""

import matplotlib.pyplot as plt
import numba
import numpy as np
from scipy.optimize import least_squares, minimize

import numadam as na

# %%
# The data are thousands of furs, 1900 to 1920, as listed in P. Howard,
# *Modeling Basics*, Texas A&M, 2009. B. Carpenter, *Predator-Prey
# Population Dynamics in Stan*, 2018, finds about the same rates in them.
HARES = [
    30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1,
    40.3, 57.0, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7,
]  # fmt: skip
LYNXES = [
    4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1, 7.4,
    8.0, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6,
]  # fmt: skip
LOGS = np.log(np.column_stack([HARES, LYNXES]))
H = 0.1  # years, a step of the integration

# %%
# The model and its derivatives
# -----------------------------
# Hares :math:`h` and lynxes :math:`l` follow
#
# .. math::
#    \frac{\mathrm{d}h}{\mathrm{d}t} = (a - b\,l)\,h, \qquad
#    \frac{\mathrm{d}l}{\mathrm{d}t} = (d\,h - c)\,l
#
# The six unknowns are the four rates and both numbers in 1900. All are
# positive, so x holds their logarithms. The state is :math:`\log\,h` and
# :math:`\log\,l`. Its derivatives with respect to x are integrated together
# with it, so the gradient is exact for these steps.


@numba.njit
def slope(state, rates, out):
    """Time derivative of (log h, log l), row 0, and of rows 1 to 6.

    These rows are the derivatives of row 0 by each element of x.
    """
    a, b, c, d = rates
    bl, dh = b * np.exp(state[0, 1]), d * np.exp(state[0, 0])
    out[0, 0], out[0, 1] = a - bl, dh - c
    for k in range(1, 7):
        out[k, 0], out[k, 1] = -bl * state[k, 1], dh * state[k, 0]
    out[1, 0] += a
    out[2, 0] -= bl
    out[3, 1] -= c
    out[4, 1] += dh


@numba.njit
def simulate(x, points, steps):
    """States of shape (points, 7, 2), `steps` times H apart.

    By the method of Runge and Kutta.
    """
    rates = np.exp(x[0]), np.exp(x[1]), np.exp(x[2]), np.exp(x[3])
    found, state = np.empty((points, 7, 2)), np.zeros((7, 2))
    k, trial, after = np.zeros((7, 2)), np.empty((7, 2)), np.empty((7, 2))
    state[0, 0], state[0, 1] = x[4], x[5]
    state[5, 0] = state[6, 1] = 1.0
    nodes = ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6))
    for i in range(points * steps):
        if i % steps == 0:
            found[i // steps] = state
        after[:] = state
        for node, weight in nodes:
            for j in range(14):
                trial.flat[j] = state.flat[j] + node * H * k.flat[j]
            slope(trial, rates, k)
            for j in range(14):
                after.flat[j] += weight * H * k.flat[j]
        state[:] = after
    return found


@numba.njit
def misfit(x, g, logs):
    """Sum of squares of log(model / furs); g gets the gradient."""
    found = simulate(x, len(logs), round(1 / H))
    f = 0.0
    for year in range(len(logs)):
        for i in range(2):
            r = found[year, 0, i] - logs[year, i]
            f += r * r
            for k in range(6):
                g[k] += 2 * r * found[year, 1 + k, i]
    return f


# %%
# One fit
# -------
# No Python runs between the iterations. At the minimum the derivatives also
# give the errors of the parameters, as in
# :doc:`/auto_gallery/fit/plot_errors`. The error of a logarithm is a
# relative error.
GUESS = np.log([0.5, 0.02, 0.5, 0.02, 30.0, 4.0])
NAMES = ["a", "b", "c", "d", "h(1900)", "l(1900)"]
falling = na.schedules.Cosine(0.1, steps=1000)
res = na.minimize(misfit, GUESS, (LOGS,), lr=falling, maxiter=1000)


def frozen(x):
    """A read-only copy, as numadam passes x: Numba compiles once."""
    x = x.copy()
    x.flags.writeable = False
    return x


def by_year(x):
    """State and derivatives at each year."""
    return simulate(frozen(x), len(LOGS), round(1 / H))


def residuals(x):
    return (by_year(x)[:, 0] - LOGS).ravel()


def jacobian(x):
    return by_year(x)[:, 1:].transpose(0, 2, 1).reshape(-1, 6)


slopes = jacobian(res.x)
variance = res.fun / (LOGS.size - 6)
covariance = variance * np.linalg.inv(slopes.T @ slopes)
error = np.sqrt(np.diag(covariance))
for name, x, e in zip(NAMES, res.x, error, strict=True):
    print(f"{name:8} {np.exp(x):8.4f}   +- {100 * e:.0f} %")

# %%
years = 1900 + H * np.arange(201)
fig, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for i, (name, color) in enumerate(
    [("hares", "#0072B2"), ("lynxes", "#D55E00")]
):
    curve = np.exp(simulate(frozen(res.x), 201, 1)[:, 0, i])
    axes.plot(years, curve, color=color, label=f"{name}, fit")
    furs = np.exp(LOGS[:, i])
    axes.plot(np.arange(1900, 1921), furs, "o", color=color, label=name)
axes.set(
    title="Hares and lynxes, 1900 to 1920",
    xlabel="year",
    ylabel="furs (thousands a year)",
    xticks=range(1900, 1921, 4),
    ylim=(0, 100),
)
axes.legend(frameon=False, ncols=2)
plt.show()

# %%
# Thirty starts, and SciPy's methods
# ----------------------------------
# In each start all six unknowns are wrong by a factor of about 1.6.
noise = np.random.default_rng(0).standard_normal((30, 6))
starts = GUESS + 0.5 * noise


def value(x):
    g = np.zeros(6)
    return misfit(frozen(x), g, LOGS), g


many = na.minimize_many(misfit, starts, (LOGS,), lr=falling, maxiter=1000)
lbfgs = [minimize(value, x, jac=True, method="L-BFGS-B") for x in starts]
squares = [least_squares(residuals, x, jac=jacobian) for x in starts]
for name, f, simulations in [
    ("Adam", many.fun, many.nfev),
    ("L-BFGS", [one.fun for one in lbfgs], sum(one.nfev for one in lbfgs)),
    (
        "least squares",
        [2 * one.cost for one in squares],
        sum(2 * one.nfev for one in squares),
    ),
]:
    right = np.sum(np.array(f) < 1.001 * res.fun)
    print(
        f"{name:13} best fit from {right} of 30 starts,"
        f" {simulations / 30:4.0f} simulations for each"
    )

# %%
# Adam and L-BFGS reach the best fit from about as many starts, but Adam
# needs many times the simulations. ``least_squares`` needs the fewest: it
# uses every residual, and it is made for a fair guess and a small sum of
# squares. Adam can afford its many steps here, because a simulation takes
# 20 us.
fig, panels = plt.subplots(
    1, 2, figsize=(10, 4), sharey=True, layout="constrained"
)
for i, (axes, name) in enumerate(
    zip(panels, ["hares", "lynxes"], strict=True)
):
    for x in many.x[many.fun > 1.001 * res.fun]:
        curve = np.exp(simulate(frozen(x), 201, 1)[:, 0, i])
        axes.plot(years, curve, color="0.7", lw=0.8)
    curve = np.exp(simulate(frozen(res.x), 201, 1)[:, 0, i])
    axes.plot(years, curve, color="#0072B2", label="best fit")
    axes.plot([], [], color="0.7", lw=0.8, label="failed starts of Adam")
    axes.set(title=name, xlabel="year", xticks=range(1900, 1921, 4))
panels[0].set(ylabel="furs (thousands a year)", ylim=(0, 90))
panels[0].legend(frameon=False)
plt.show()

# %%
# Grey: the fits that failed. One found a wrong period, the others curves
# that do not oscillate.
#
# In short: where you have residuals and their Jacobian, fit with
# ``least_squares``. Where you have only a gradient, compiled steps of Adam
# are cheap enough to try many starts.

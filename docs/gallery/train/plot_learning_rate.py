"""
Choose a learning rate: sixty at once, and schedules
====================================================

The learning rate is the one number that Adam cannot choose for you. No
element of x moves by much more than lr in one iteration. If lr is too
small, the iterations do not suffice. If it is too large, x jumps about.
Here one fit runs at sixty learning rates at once, and then with decaying
schedules.

Height of f above its minimum at the end of the fit, over the learning rate,
for four numbers of iterations. x and f have no units here; f is a mean
square of scaled counts.
"""

import matplotlib.pyplot as plt
import numba
import numpy as np

import numadam as na

# %%
# The problem: two peaks in a noisy spectrum
# ------------------------------------------
# Height, position and width of each peak, six numbers. The objective is
# compiled by Numba and adds its gradient to g, which arrives as zeros.
TRUTH = np.array([1.0, 3.0, 0.6, 0.7, 5.0, 1.0])
START = np.array([0.5, 2.0, 1.0, 0.5, 6.0, 1.0])


@numba.njit
def misfit(x, g, energy, counts):
    """Mean squared residual of a sum of two peaks.

    A peak is h exp(-z^2 / 2) with z = (energy - c) / w.
    """
    f = 0.0
    for e, y in zip(energy, counts):  # noqa: B905  Numba knows no strict=
        r = -y
        for h, c, w in ((x[0], x[1], x[2]), (x[3], x[4], x[5])):
            r += h * np.exp(-0.5 * ((e - c) / w) ** 2)
        f += r**2 / energy.size
        for k in (0, 3):
            z = (e - x[k + 1]) / x[k + 2]
            slope = 2 * r / energy.size * np.exp(-0.5 * z**2)
            g[k] += slope
            g[k + 1] += slope * x[k] * z / x[k + 2]
            g[k + 2] += slope * x[k] * z**2 / x[k + 2]
    return f


def spectrum(x, energy):
    """The two peaks."""
    return sum(
        h * np.exp(-0.5 * ((energy - c) / w) ** 2)
        for h, c, w in x.reshape(2, 3)
    )


energy = np.linspace(0, 8, 120)
noise = 0.05 * np.random.default_rng(0).standard_normal(energy.size)
counts = spectrum(TRUTH, energy) + noise

# %%
# Sixty learning rates at once
# ----------------------------
# ``minimize_many`` takes one problem a row, and a learning rate for each.
# ``gtol=0`` lets all of them use every iteration. ``fun_last`` is f at the
# last iterate; ``fun`` would be the lowest f on the way.
lrs = np.geomspace(1e-4, 3, 60)
starts = np.tile(START, (lrs.size, 1))
data = (energy, counts)
sweeps = {
    n: na.minimize_many(misfit, starts, data, lr=lrs, maxiter=n, gtol=0)
    for n in (100, 300, 1000, 3000)
}
best = sweeps[3000].best()


def above(f):
    """f above its minimum; less than 1e-12 is of no use to a fit."""
    return np.maximum(np.asarray(f) - best.fun, 1e-12)


for n, res in sweeps.items():
    lowest = lrs[above(res.fun_last) < 1e-4][0]
    print(f"{n:4} iterations are enough from lr = {lowest:.4f} on")

# %%
fig, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(energy, counts, ".", color="0.6", label="measured")
axes.plot(
    energy, spectrum(START, energy), "--", color="#E69F00", label="start"
)
axes.plot(energy, spectrum(best.x, energy), color="#0072B2", label="fit")
axes.set(
    title="The spectrum and its fit",
    xlabel="energy (keV)",
    ylabel="counts (scaled)",
)
axes.legend(frameon=False)
plt.show()

# %%
# The more iterations you can afford, the smaller lr may be, and the wider
# the good range is. Below the range x does not arrive. Above it x jumps and
# the curve is ragged: where it is low there, that is luck. At lr = 1 the
# first steps throw the peaks out of the data.

# sphinx_gallery_thumbnail_number = 2
fig, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
COLORS = ["#CC79A7", "#E69F00", "#009E73", "#0072B2"]
for color, (n, res) in zip(COLORS, sweeps.items(), strict=True):
    axes.loglog(lrs, above(res.fun_last), ".-", color=color, label=n)
axes.set(
    title="One fit at sixty learning rates",
    xlabel="learning rate (units of x)",
    ylabel="f above its minimum",
)
axes.legend(title="iterations", frameon=False, loc="lower left")
plt.show()

# %%
# Begin large, end small
# ----------------------
# A schedule gives lr as a function of the iteration. A cosine falls from lr
# to 0. With a warm-up it climbs first, while Adam's averages still rest on
# a few gradients.
N = 1000
SCHEDULES = {
    "constant": lambda lr: na.schedules.Constant(lr),
    "cosine": lambda lr: na.schedules.Cosine(lr, steps=N),
    "warm-up, cosine": lambda lr: na.schedules.WarmupCosine(
        lr, steps=N, warmup=N // 10
    ),
}


def fit(schedule):
    """The fit, from the same start."""
    return na.minimize(misfit, START, data, lr=schedule, maxiter=N, gtol=0)


fig, (left, middle, right) = plt.subplots(
    1, 3, figsize=(10, 3.6), layout="constrained"
)
COLORS = ["#E69F00", "#0072B2", "#009E73"]
for color, (name, schedule) in zip(COLORS, SCHEDULES.items(), strict=True):
    run = fit(schedule(0.3)).history
    ends = [fit(schedule(lr)).fun_last for lr in lrs]
    left.plot(run["nit"], run["lr"], color=color, label=name)
    middle.semilogy(run["nit"], above(run["fun"]), color=color)
    right.loglog(lrs, above(ends), ".-", color=color)
left.set(
    title="three schedules",
    xlabel="iteration",
    ylabel="learning rate (units of x)",
)
middle.set(
    title="a run with each",
    xlabel="iteration",
    ylabel="f above its minimum",
)
right.set(
    title="all learning rates",
    xlabel="largest learning rate (units of x)",
    ylabel="f at the end, above its minimum",
)
fig.legend(frameon=False, loc="outside lower center", ncols=3)
plt.show()

# %%
# Middle: all three begin at the same pace, but with a constant lr x does
# not stay. Near the minimum Adam forgets the large gradients of the
# beginning and divides by less and less. At last its steps are too long for
# the steepest direction, x is thrown out, and the gradients are large again
# (Cohen et al., "Adaptive Gradient Methods at the Edge of Stability",
# 2022). By then the schedules are low.
#
# Right: the cosine allows larger learning rates, and the warm-up much
# larger ones, since its short first steps leave the peaks inside the data.
# Both also need a larger lr: averaged over a run, it is half of the
# largest value.
#
# Take away: sweep lr over some decades in one call, take one from the
# middle of the good range, and let a cosine bring it down to 0.

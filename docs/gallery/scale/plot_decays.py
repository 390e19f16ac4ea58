r"""
Fit 65,536 decays at once: a lifetime image
===========================================

In a lifetime image every pixel has its own decay: an amplitude and a rate,
from a few noisy samples. That is 65,536 small fits. `minimize_many` does
all of them in one call: the objective is compiled, the cores share the
pixels, and a pixel that has converged takes no more time.

Fitted lifetimes in ns, one fit for each of the 256 x 256 pixels.
"""

import time
from itertools import pairwise

import matplotlib.pyplot as plt
import numba
import numpy as np
import pywt

import numadam as na

# %%
# The data
# --------
# No package contains a lifetime image, so a photograph of 256 x 256 pixels
# stands for the lifetimes, between 0.5 and 4 ns. Each decay has 32 samples
# with noise of 3 % of its amplitude.
NOISE = 0.03
camera = pywt.data.camera()
photograph = camera.reshape(256, 2, 256, 2).mean(axis=(1, 3)) / 255
lifetimes = 0.5 + 3.5 * photograph
t = np.linspace(0.1, 10, 32)
clean = np.exp(-t / lifetimes.reshape(-1, 1))
rng = np.random.default_rng(0)
samples = clean + NOISE * rng.standard_normal(clean.shape)

fig, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for k, colour in ((130 * 256 + 60, "#2171b5"), (40 * 256 + 20, "#d94801")):
    name = f"pixel {divmod(k, 256)}"
    axes.plot(t, samples[k], "o", ms=4, color=colour, label=name)
    axes.plot(t, clean[k], color=colour, lw=1)
axes.set(
    title="Two of 65,536 decays",
    xlabel="time (ns)",
    ylabel="signal (amplitudes)",
)
axes.legend(frameon=False)
plt.show()

# %%
# One objective for all
# ---------------------
# ``i`` is the number of the problem, which selects its data. ``g`` contains
# zeros when the function is called. A rate has to stay positive, so it gets
# a bound.


@numba.njit
def misfit(x, g, i, t, samples):
    """Half the sum of squares of x[0] exp(-x[1] t) - samples[i]."""
    f = 0.0
    for k in range(t.size):
        e = np.exp(-x[1] * t[k])
        off = x[0] * e - samples[i, k]
        f += 0.5 * off * off
        g[0] += off * e
        g[1] -= off * x[0] * e * t[k]
    return f


def fit(samples):
    """All fits, from the same start."""
    return na.minimize_many(
        misfit,
        np.tile([1.0, 0.7], (len(samples), 1)),
        (t, samples),
        bounds=[(0, None), (0.05, None)],
        lr=0.02,
        gtol=1e-4,
        maxiter=1000,
    )


fit(samples[:1])  # compiles the objective
start = time.perf_counter()
res = fit(samples)
seconds = time.perf_counter() - start
each = len(samples) / seconds
print(f"{len(samples)} fits in {seconds:.1f} s: {each:.0f} a second")
print(
    f"{100 * res.success.mean():.2f} % converged,"
    f" in {res.nit.mean():.0f} iterations on average"
)
assert res.success.all()

# sphinx_gallery_thumbnail_number = 2
fitted = (1 / res.x[:, 1]).reshape(lifetimes.shape)
fig, axes = plt.subplots(figsize=(5, 4), layout="constrained")
picture = axes.imshow(fitted, vmin=0.5, vmax=4)
axes.set_title("65,536 fitted lifetimes")
axes.set_axis_off()
fig.colorbar(picture, label="lifetime (ns)", shrink=0.9)
plt.show()

# %%
# How good are they?
# ------------------
# The usual quick way is a straight line through the logarithms. But
# logarithms amplify the noise where the signal is small, and short
# lifetimes suffer most.
weight = np.maximum(samples, 0) ** 2  # a negative sample has no logarithm
logs = np.log(np.maximum(samples, 1e-300))
total = weight.sum(axis=1)
away = t - (weight @ t / total)[:, None]
height = logs - ((weight * logs).sum(axis=1) / total)[:, None]
slope = (weight * away * height).sum(axis=1) / (weight * away**2).sum(
    axis=1
)
quick = (1 / np.maximum(-slope, 1 / 20)).reshape(lifetimes.shape)


def rmse(found):
    """Root mean square error of the lifetimes in ns."""
    return np.sqrt(np.mean((found - lifetimes) ** 2))


shown = {
    f"line through logarithms: rmse {rmse(quick):.2f} ns": quick,
    f"fit: rmse {rmse(fitted):.3f} ns": fitted,
}
fig, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for axes, (name, found) in zip(panels, shown.items(), strict=True):
    off = found - lifetimes
    picture = axes.imshow(off, cmap="RdBu", vmin=-0.5, vmax=0.5)
    axes.set_title(name, fontsize=11)
    axes.set_axis_off()
fig.colorbar(
    picture, ax=panels, label="error of the lifetime (ns)", extend="both"
)
assert rmse(fitted) < 0.3 * rmse(quick)
plt.show()

# %%
# Are the fits as good as they can be? No unbiased estimate can scatter less
# than the bound of Cramér and Rao, which follows from the noise and the
# slopes of the decay (:doc:`/auto_gallery/fit/plot_errors`).
slopes = np.stack([clean, -t * clean], axis=1)  # by amplitude and rate
information = slopes @ slopes.transpose(0, 2, 1) / NOISE**2
least = np.sqrt(np.linalg.inv(information)[:, 1, 1])  # of the rate
least = least.reshape(lifetimes.shape) * lifetimes**2


def size(errors):
    """Root mean square; NaN of nothing."""
    return np.sqrt(np.mean(errors**2)) if errors.size else np.nan


edges = np.linspace(0.5, 4, 29)
middle, scatter, bound = 0.5 * (edges[1:] + edges[:-1]), [], []
for low, high in pairwise(edges):
    here = (lifetimes >= low) & (lifetimes < high)
    scatter.append(size((fitted - lifetimes)[here]))
    bound.append(size(least[here]))

fig, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(middle, scatter, "o", color="#d94801", label="error of the fits")
axes.plot(middle, bound, "k", lw=1, label="bound of Cramér and Rao")
axes.set(
    title="Scatter of the fits, and the least possible",
    xlabel="true lifetime (ns)",
    ylabel="root mean square error (ns)",
)
axes.legend(frameon=False)
plt.show()

# %%
# They are. With CuPy starts the same call fits one pixel in each thread of
# a GPU.

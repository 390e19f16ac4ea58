"""
A photograph out of focus, and pixels that are never negative
=============================================================

A lens out of focus turns each point into a disk, and the camera adds noise. `minimize` looks for
the picture that, blurred again, comes nearest to what was seen: a quarter of a million unknowns.
Light is never negative, and ``bounds=(0, None)`` says so. On black paper that helps a lot.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import scipy.fft as fft

import numadam as na
from numadam.demos import deconvolution

# %%
# What was there and what was seen
# --------------------------------
# Two real images: a photograph that PyWavelets ships, and a page of handwritten digits.
RADIUS, NOISE = 5, 0.002
truths = {"photograph": deconvolution.photograph(), "handwriting": deconvolution.handwriting()}


def disk(shape):
    """The lens in Fourier space: real factors, since the disk is symmetric."""
    sides = [np.minimum(np.arange(n), n - np.arange(n)) for n in shape]
    spread = np.clip(RADIUS + 0.5 - np.hypot(sides[0][:, None], sides[1]), 0, 1)
    return fft.rfft2(spread / spread.sum()).real.astype(np.float32)


def blur(x, lens):
    """What the lens makes of x."""
    return fft.irfft2(lens * fft.rfft2(x), x.shape)


def psnr(x, truth):
    """Peak signal-to-noise ratio in dB: higher is better."""
    return -10 * np.log10(np.mean((x - truth) ** 2))


# %%
# The search
# ----------
# The misfit is half the sum of squares, and its gradient is the error blurred once more. A search
# that goes on for ever fits the noise. So it stops where the misfit is what the noise alone would
# make: the callback raises StopIteration. The learning rate falls along a cosine, so that the last
# steps are small.


def sharpen(seen, lens, bounds):
    """The result of `minimize`."""

    def misfit(x):
        off = blur(x, lens) - seen
        return 0.5 * float(np.vdot(off, off)), blur(off, lens)

    def enough(intermediate_result):
        if intermediate_result.fun <= 0.5 * NOISE**2 * seen.size:
            raise StopIteration

    return na.minimize(
        misfit,
        np.maximum(seen, 0),
        jac=True,
        bounds=bounds,
        lr=na.schedules.Cosine(0.05, steps=150),
        maxiter=150,
        callback=enough,
    )


rng = np.random.default_rng(0)
gains = {}
fig, rows = plt.subplots(2, 4, figsize=(9.5, 5.2), layout="constrained")
for row, (name, truth) in zip(rows, truths.items(), strict=True):
    lens = disk(truth.shape)
    seen = blur(truth, lens) + np.float32(NOISE) * rng.standard_normal(truth.shape, np.float32)
    start = time.perf_counter()
    free = sharpen(seen, lens, None)
    held = sharpen(seen, lens, (0, None))
    print(f"{name}: two searches of {truth.size} unknowns in {time.perf_counter() - start:.1f} s")
    shown = {"there": truth, "seen": seen, "found": free.x, "found, x >= 0": held.x}
    for axes, (what, x) in zip(row, shown.items(), strict=True):
        quality = "" if x is truth else f", {psnr(x, truth):.1f} dB"
        axes.imshow(x[60:240, 150:330], cmap="gray", vmin=0, vmax=1)
        axes.set_title(what + quality, fontsize=10)
        axes.set_axis_off()
    print(f"  free: {free.nit} steps, lowest pixel {free.x.min():.2f}")
    print(f"  held: {held.nit} steps, lowest pixel {held.x.min():.2f}")
    gains[name] = psnr(held.x, truth) - psnr(free.x, truth)
    assert held.x.min() >= 0
plt.show()

# %%
# The bound knows something about the picture that the data do not say. Where nothing is black, as
# in most of the photograph, it gains next to nothing. Where most is black, it forbids the ripples
# beside each stroke, and what they took away comes back to the strokes.
for name, gain in gains.items():
    print(f"{name}: the bound gains {gain:.1f} dB")
assert gains["handwriting"] > 5

# %%
# A pixel that touches 0 is not stuck: as soon as the gradient pulls it inwards, it moves. Momentum
# that would push it out is not collected while it lies there.
dark = held.x == 0
fig, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
edges = np.linspace(-0.5, 1.5, 101)
axes.hist(free.x.ravel(), edges, histtype="step", color="#d94801", log=True, label="found")
axes.hist(held.x.ravel(), edges, histtype="step", color="#2171b5", log=True, label="found, x >= 0")
axes.hist(truth.ravel(), edges, histtype="step", color="0.6", log=True, label="there")
axes.set(
    xlabel="brightness", title=f"handwriting: {100 * dark.mean():.0f} % of the pixels lie on 0"
)
axes.legend(frameon=False)
plt.show()

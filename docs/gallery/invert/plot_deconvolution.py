r"""
Sharpen a photograph whose pixels are never negative
====================================================

A lens out of focus turns each point into a disk, and the camera adds noise.
`minimize` searches for the picture that, blurred again, comes nearest to
the photograph: a quarter of a million unknowns. Light is never negative, so
``bounds=(0, None)`` applies. Where a page is black, this helps a lot.

A part of a page of handwriting, brightness from 0 (black) to 1 (white):
left half as photographed, right half as found.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import pywt
import scipy.fft as fft
from handwriting import page

import numadam as na

# %%
# The truth and the photograph
# ----------------------------
# The truth is one of two real images: a photograph from PyWavelets, and a
# page of handwritten digits.
RADIUS, NOISE = 5, 0.002
truths = {
    "photograph": np.asarray(pywt.data.camera() / 255, np.float32),
    "handwriting": page(),
}


def disk(shape):
    """The lens in Fourier space: real, since the disk is symmetric."""
    sides = [np.minimum(np.arange(n), n - np.arange(n)) for n in shape]
    distance = np.hypot(sides[0][:, None], sides[1])
    spread = np.clip(RADIUS + 0.5 - distance, 0, 1)
    return fft.rfft2(spread / spread.sum()).real.astype(np.float32)


def blur(x, lens):
    """The image x, seen through the lens."""
    return fft.irfft2(lens * fft.rfft2(x), x.shape)


def psnr(x, truth):
    """Peak signal-to-noise ratio in dB: higher is better."""
    return -10 * np.log10(np.mean((x - truth) ** 2))


# %%
# The search
# ----------
# The misfit is half the sum of squares, and its gradient is the residual
# blurred once more:
#
# .. math::
#    f(x) = \frac{1}{2} \| B x - y \|^2, \qquad
#    \nabla f(x) = B\,(B x - y)
#
# A search without a limit would fit the noise. So it stops when the misfit
# is as large as the noise alone would make it: the callback raises
# StopIteration. The learning rate decays along a cosine, so that the last
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
images = {}
for name, truth in truths.items():
    lens = disk(truth.shape)
    noise = rng.standard_normal(truth.shape, np.float32)
    seen = blur(truth, lens) + np.float32(NOISE) * noise
    start = time.perf_counter()
    free = sharpen(seen, lens, None)
    bounded = sharpen(seen, lens, (0, None))
    seconds = time.perf_counter() - start
    print(f"{name}: two searches of {truth.size} unknowns, {seconds:.1f} s")
    for kind, res in {"free": free, "x >= 0": bounded}.items():
        print(f"  {kind:6} {res.nit} steps, lowest {res.x.min():.2f}")
    assert bounded.x.min() >= 0
    images[name] = {
        "truth": truth,
        "photographed": seen,
        "found": free.x,
        "found, x >= 0": bounded.x,
    }

# %%
PART = np.s_[60:240, 150:330]
written = {kind: x[PART] for kind, x in images["handwriting"].items()}
left = np.arange(180) < 90
half = np.where(left, written["photographed"], written["found, x >= 0"])

fig, axes = plt.subplots(figsize=(5, 4), layout="constrained")
image = axes.imshow(half, cmap="gray", vmin=0, vmax=1)
axes.axvline(89.5, color="#E69F00", lw=1)
axes.set_title("Photographed | found")
axes.set_axis_off()
fig.colorbar(image, label="brightness", shrink=0.9)
plt.show()

# %%
# A part of each image. The numbers are peak signal-to-noise ratios.
fig, rows = plt.subplots(2, 4, figsize=(9.5, 5.2), layout="constrained")
for row, kinds in zip(rows, images.values(), strict=True):
    for axes, (kind, x) in zip(row, kinds.items(), strict=True):
        quality = psnr(x, kinds["truth"]) if kind != "truth" else None
        dB = f": {quality:.1f} dB" if quality else ""
        axes.imshow(x[PART], cmap="gray", vmin=0, vmax=1)
        axes.set_title(kind + dB, fontsize=9)
        axes.set_axis_off()
plt.show()

# %%
# The bound adds information that the data do not contain. Where nothing is
# black, as in most of the photograph, it hardly helps. Where most is black,
# it prevents the ripples next to each stroke, and their light returns to
# the strokes.
gains = {}
for name, kinds in images.items():
    free, bounded = (
        psnr(kinds[kind], kinds["truth"])
        for kind in ("found", "found, x >= 0")
    )
    gains[name] = bounded - free
    print(f"{name}: the bound gains {gains[name]:.1f} dB")
assert gains["handwriting"] > 5

# %%
# A pixel at 0 is not stuck: as soon as the gradient pulls it up, it moves.
# While it is 0, no momentum builds up that would keep it there.
edges = np.linspace(-0.5, 1.5, 101)
kinds = images["handwriting"]
black = np.mean(kinds["found, x >= 0"] == 0)

fig, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for kind, colour in [
    ("found", "#d94801"),
    ("found, x >= 0", "#2171b5"),
    ("truth", "0.6"),
]:
    style = {"histtype": "step", "color": colour, "log": True}
    axes.hist(kinds[kind].ravel(), edges, label=kind, **style)
axes.set(
    title=f"Handwriting: {100 * black:.0f} % of the pixels are 0",
    xlabel="brightness",
    ylabel="pixels",
)
axes.legend(frameon=False)
plt.show()

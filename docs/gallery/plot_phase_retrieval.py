"""
Phase retrieval with complex parameters
=======================================

A detector counts photons: it sees how strong a wave is, but not its phase. So an inverse Fourier
transform of a diffraction pattern gives no picture. With several patterns, each taken through
another phase mask, the object can be searched for. It is a complex array, and numadam takes
complex arrays as they are.
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.fft
from skimage.data import camera, moon

import numadam as na

# %%
# Object and instrument
# ---------------------
# Two photographs make an object that absorbs and delays: one is its modulus, the other its phase,
# over a full turn. Eight masks turn each pixel by a random multiple of 90 degrees. The detector
# counts 1000 photons a pixel on average, with the noise that counting has.
N = 128
PHOTONS = 1000


def photograph(image):
    """N x N pixels from 0 to 1."""
    small = image.reshape(N, 512 // N, N, 512 // N).mean(axis=(1, 3))
    return (small - small.min()) / np.ptp(small)


rng = np.random.default_rng(0)
truth = (0.3 + 0.7 * photograph(camera())) * np.exp(2j * np.pi * (photograph(moon()) - 0.5))
masks = (1j ** rng.integers(0, 4, (8, N, N))).astype(np.complex64)


def diffract(x):
    """The waves on the detector, one for each mask."""
    return scipy.fft.fft2(masks * x, norm="ortho")


strength = PHOTONS / np.mean(abs(truth) ** 2)
counts = rng.poisson(strength * abs(diffract(truth)) ** 2)
amplitudes = np.sqrt(counts / strength).astype(np.float32)


# %%
# The gradient by a complex array
# -------------------------------
# f is real, and its gradient is df/dRe(x) + i df/dIm(x), as in all of numadam. For a wave A x it
# is the adjoint of A, applied to what f changes by with the wave. A is a mask and a Fourier
# transform. Its adjoint is the inverse transform and the conjugate of the mask.
def misfit(x):
    """Squared error of the amplitudes, and its gradient."""
    waves = diffract(x)
    size = abs(waves)
    error = size - amplitudes
    waves *= error / np.maximum(size, 1e-9)
    back = scipy.fft.ifft2(waves, norm="ortho", overwrite_x=True)
    return np.sum(error**2), 2 * np.sum(masks.conj() * back, axis=0)


# %%
# No measurement sees a phase that all pixels share, so it is taken out before a comparison.
def aligned(x):
    """The object x, turned as a whole to the phase of the truth."""
    return x * np.exp(-1j * np.angle(np.sum(truth.conj() * x)))


def error(x):
    """Distance from the truth, relative to its size; BLAS would start threads for it."""
    return np.sqrt(np.sum(abs(aligned(x) - truth) ** 2) / np.sum(abs(truth) ** 2))


# %%
# Two ways to search
# ------------------
# Alternating projections are the classic: give the waves the measured amplitudes, go back to the
# object, take the mean over the masks, repeat. For these masks that is a gradient step of length
# 1/16. Both begin at random noise, and at an even picture.
ITERATIONS = 200


def by_adam(start):
    errors = []
    res = na.minimize(
        misfit,
        start,
        jac=True,
        lr=na.schedules.Cosine(1.0, steps=ITERATIONS),
        complex_form="modulus",
        maxiter=ITERATIONS,
        callback=lambda x: errors.append(error(x)),
    )
    return res.x, errors


def by_projections(start):
    x, errors = start, []
    for _ in range(ITERATIONS):
        x = x - misfit(x)[1] / 16
        errors.append(error(x))
    return x, errors


noise = (0.5 * rng.standard_normal((2, N, N))).astype(np.float32)
random, even = noise[0] + 1j * noise[1], np.full((N, N), 0.5 + 0j, np.complex64)
runs = {
    "Adam, from noise": by_adam(random),
    "projections, from noise": by_projections(random),
    "Adam, from even": by_adam(even),
    "projections, from even": by_projections(even),
}
for name, (x, errors) in runs.items():
    print(f"{name:24} error {errors[-1]:.3f}, f = {misfit(x)[0]:.1f}")
print(f"{'the truth':24} error 0.000, f = {misfit(truth)[0]:.1f}")

# %%
# With ``complex_form="modulus"`` Adam scales a step by the modulus of the gradient, so that it does
# not matter which phase is called 0.
fig, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, (_, errors)), color, line in zip(
    runs.items(), ["#0072B2", "#D55E00"] * 2, ["-", "-", "--", "--"], strict=True
):
    axis.semilogy(errors, line, color=color, label=name)
axis.set(xlabel="iteration", ylabel="error")
axis.legend(frameon=False)

# %%
# What they found
# ---------------
# sphinx_gallery_thumbnail_number = 2
fig, axes = plt.subplots(2, 3, figsize=(9, 5.8), layout="constrained")
pictures = {"truth": truth, **{name: runs[name][0] for name in list(runs)[:2]}}
for (name, x), (top, bottom) in zip(pictures.items(), axes.T, strict=True):
    modulus = top.imshow(abs(x), cmap="gray", vmin=0, vmax=1)
    phase = bottom.imshow(np.angle(aligned(x)), cmap="twilight", vmin=-np.pi, vmax=np.pi)
    top.set_title(name)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
fig.colorbar(modulus, ax=axes[0], label="modulus")
fig.colorbar(phase, ax=axes[1], label="phase (rad)", ticks=[-3, 0, 3])
plt.show()

# %%
# A good first guess is worth more than a good method: from an even picture, not too far from this
# object, the projections arrive first. From noise they get stuck, and Adam, whose first steps are
# long, does not. All that arrive end at the same f, which is below that of the truth: they fit
# some of the noise.
#
# Take away: give the gradient as df/dRe + i df/dIm, and use complex parameters like real ones.

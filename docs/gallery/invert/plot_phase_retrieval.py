r"""
Retrieve the phase of a wave: complex parameters
================================================

A detector counts photons: it measures how strong a wave is, but not its
phase. So an inverse Fourier transform of a diffraction pattern gives no
picture. With several patterns, each taken through another phase mask, the
object can be reconstructed. It is a complex array, which numadam accepts as
it is.

Modulus of the object, reconstructed from a start of random noise: on the
left half by Adam, on the right half by alternating projections, the classic
method, both after 200 iterations.
"""

import matplotlib.pyplot as plt
import numpy as np
import scipy.fft
from skimage.data import camera, moon

import numadam as na

# %%
# Object and instrument
# ---------------------
# Two photographs make an object that absorbs and delays: one is its
# modulus, the other its phase, over 360 degrees. Eight masks shift the
# phase of each pixel by a random multiple of 90 degrees. The detector
# counts 1000 photons a pixel on average, with counting noise.
N = 128
PHOTONS = 1000


def photograph(image):
    """N x N pixels from 0 to 1."""
    small = image.reshape(N, 512 // N, N, 512 // N).mean(axis=(1, 3))
    return (small - small.min()) / np.ptp(small)


rng = np.random.default_rng(0)
turn = np.exp(2j * np.pi * (photograph(moon()) - 0.5))
truth = (0.3 + 0.7 * photograph(camera())) * turn
masks = (1j ** rng.integers(0, 4, (8, N, N))).astype(np.complex64)


def diffract(x):
    """The waves on the detector, one for each mask."""
    return scipy.fft.fft2(masks * x, norm="ortho")


strength = PHOTONS / np.mean(abs(truth) ** 2)
counts = rng.poisson(strength * abs(diffract(truth)) ** 2)
amplitudes = np.sqrt(counts / strength).astype(np.float32)


# %%
# The gradient of complex numbers
# -------------------------------
# f is real, and its gradient with respect to a complex x is
#
# .. math::
#    g = \frac{\partial f}{\partial\, \mathrm{Re}\, x}
#    + \mathrm{i}\, \frac{\partial f}{\partial\, \mathrm{Im}\, x}
#
# For a wave :math:`A x` that is the adjoint of :math:`A`, applied to the
# gradient with respect to the wave. Here :math:`A` is a mask and a Fourier
# transform. Its adjoint is the inverse transform and the conjugate of the
# mask.
def misfit(x):
    """Squared error of the amplitudes, and its gradient."""
    waves = diffract(x)
    size = abs(waves)
    error = size - amplitudes
    waves *= error / np.maximum(size, 1e-9)
    back = scipy.fft.ifft2(waves, norm="ortho", overwrite_x=True)
    return np.sum(error**2), 2 * np.sum(masks.conj() * back, axis=0)


# %%
# A phase that all pixels share does not change any measurement, so it is
# removed before a comparison.
def aligned(x):
    """The object x, turned as a whole to the phase of the truth."""
    return x * np.exp(-1j * np.angle(np.sum(truth.conj() * x)))


def error(x):
    """Distance from the truth, relative to its size."""
    off = np.sum(abs(aligned(x) - truth) ** 2)
    return np.sqrt(off / np.sum(abs(truth) ** 2))


# %%
# Two methods
# -----------
# Alternating projections are the classic method: give the waves the
# measured amplitudes, go back to the object, take the mean over the masks,
# repeat. For these masks that is a gradient step of length 1/16.
#
# With ``complex_form="modulus"`` Adam scales a step by the modulus of the
# gradient, so the choice of the zero of phase does not matter.
#
# Both methods are run twice: from random noise and from a constant.
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
random = noise[0] + 1j * noise[1]
constant = np.full((N, N), 0.5 + 0j, np.complex64)
runs = {
    "Adam, from noise": by_adam(random),
    "projections, from noise": by_projections(random),
    "Adam, from a constant": by_adam(constant),
    "projections, from a constant": by_projections(constant),
}
for name, (x, errors) in runs.items():
    print(f"{name:29} error {errors[-1]:.3f}, f = {misfit(x)[0]:.1f}")
print(f"{'the truth':29} error 0.000, f = {misfit(truth)[0]:.1f}")

# %%
# The picture
# -----------
found, stuck = (x for x, _ in list(runs.values())[:2])
half = np.where(np.arange(N) < N // 2, abs(found), abs(stuck))

fig, axes = plt.subplots(figsize=(5, 4), layout="constrained")
image = axes.imshow(half, cmap="gray", vmin=0, vmax=1)
axes.axvline(N // 2 - 0.5, color="#E69F00", lw=1)
axes.set_title("Adam | alternating projections")
axes.set_axis_off()
fig.colorbar(image, label="modulus", shrink=0.9)
plt.show()

# %%
# Modulus (above) and phase (below).
pictures = {
    "truth": truth,
    "Adam, from noise": found,
    "projections, from noise": stuck,
}
fig, panels = plt.subplots(2, 3, figsize=(9, 5.8), layout="constrained")
PHASE = {"cmap": "twilight", "vmin": -np.pi, "vmax": np.pi}
for (name, x), (top, bottom) in zip(
    pictures.items(), panels.T, strict=True
):
    modulus = top.imshow(abs(x), cmap="gray", vmin=0, vmax=1)
    phase = bottom.imshow(np.angle(aligned(x)), **PHASE)
    top.set_title(name)
for axes in panels.flat:
    axes.set(xticks=[], yticks=[])
fig.colorbar(modulus, ax=panels[0], label="modulus")
fig.colorbar(phase, ax=panels[1], label="phase (rad)", ticks=[-3, 0, 3])
plt.show()

# %%
# The error over the iterations
# -----------------------------
fig, axes = plt.subplots(figsize=(7, 4), layout="constrained")
STYLES = [("#0072B2", "-"), ("#D55E00", "-"), ("#0072B2", "--")]
STYLES += [("#D55E00", "--")]
for (name, (_, errors)), (color, line) in zip(
    runs.items(), STYLES, strict=True
):
    axes.semilogy(errors, line, color=color, label=name)
axes.set(
    title="Distance from the truth",
    xlabel="iteration",
    ylabel="error, relative to the truth",
)
axes.legend(frameon=False)
plt.show()

# %%
# A good first guess is worth more than a good method: from a constant,
# which is not too far from this object, the projections converge first.
# From noise they get stuck; Adam, whose first steps are long, does not. All
# runs that converge end at the same f, which is below that of the truth:
# they fit some of the noise.
#
# In short: give the gradient as above, and use complex parameters like
# real ones.

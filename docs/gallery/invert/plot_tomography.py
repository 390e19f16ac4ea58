r"""
Reconstruct a picture from few views: tomography
================================================

A scanner measures how much of each ray an object absorbs. With hundreds of
views, filtered back projection gives the picture at once. With 24 views it
gives streaks and noise. Then it is better to search for a picture that
explains the data, and to use what else is known: absorption cannot be
negative, and neighbouring pixels usually have similar values.

One picture from 24 views: on the left half by filtered back projection, on
the right half by Adam with both of these constraints. The grey scale is
absorption per unit of length; the picture is 2 units wide.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import sparse
from skimage.data import shepp_logan_phantom
from skimage.transform import iradon, resize

import numadam as na

# %%
# The projector is a sparse matrix
# --------------------------------
# Each pixel is split between its two nearest detector cells, so the
# projector is a sparse matrix :math:`A`, and the gradient needs only its
# transpose.
N = 127  # cells of the detector, pixels on a side
ANGLES = np.arange(24) * 180 / 24


def projector(pixels):
    """Line integrals, of shape (angles * N), of pixels x pixels."""
    grid = np.mgrid[:pixels, :pixels].reshape(2, -1)
    y, x = 1 - (grid + 0.5) * 2 / pixels
    weight = (2 / pixels) ** 2 * N / 2
    views = []
    for angle in np.deg2rad(ANGLES):
        place = (np.sin(angle) * y - np.cos(angle) * x + 1) * N / 2 - 0.5
        left = np.floor(place).astype(int)
        cell = np.concatenate([left, left + 1])
        share = np.concatenate([left + 1 - place, place - left]) * weight
        pixel = np.tile(np.arange(pixels**2), 2)
        seen = (cell >= 0) & (cell < N)
        entries = (share[seen], (cell[seen], pixel[seen]))
        views.append(sparse.csr_array(entries, shape=(N, pixels**2)))
    return sparse.vstack(views, format="csr")


A = projector(N)

# %%
# The data
# --------
# The data come from a finer picture than the one that is reconstructed:
# with the same matrix for both, the task would be too easy. 100,000 photons
# start on each ray.
rng = np.random.default_rng(0)
fine = resize(shepp_logan_phantom(), (2 * N, 2 * N), anti_aliasing=True)
truth = fine.reshape(N, 2, N, 2).mean(axis=(1, 3))
PHOTONS = 1e5
counts = rng.poisson(PHOTONS * np.exp(-projector(2 * N) @ fine.ravel()))
data = -np.log(counts / PHOTONS)


def error(picture):
    """Distance from the truth, relative to its size."""
    return np.sqrt(np.sum((picture - truth) ** 2) / np.sum(truth**2))


# %%
# Filtered back projection
# ------------------------
# The filter is the best one for this picture. Negative values are set to 0.
FILTERS = ["ramp", "shepp-logan", "cosine", "hamming", "hann"]
views = data.reshape(-1, N).T * N / 2  # scikit-image's unit is the pixel
backs = [iradon(views, ANGLES, filter_name=f).clip(0) for f in FILTERS]
back = min(backs, key=error)


# %%
# The search
# ----------
# f is half the squared residual, plus the weight ``smooth`` times the total
# variation, smoothed at 0:
#
# .. math::
#    f(x) = \frac{1}{2} \| A x - y \|^2
#    + \mathrm{smooth} \sum_{\mathrm{pixels}}
#    \sqrt{(\Delta_1 x)^2 + (\Delta_2 x)^2 + 10^{-4}}
#
# The second term is small for uniform areas with sharp edges. A larger
# weight blurs the picture, a smaller one leaves noise in it.
def misfit(x, smooth):
    """f and its gradient."""
    r = A @ x.ravel() - data
    dx = np.diff(x, axis=1, append=x[:, -1:])
    dy = np.diff(x, axis=0, append=x[-1:])
    size = np.sqrt(dx**2 + dy**2 + 1e-4)
    variation = -np.diff(dx / size, axis=1, prepend=0)
    variation -= np.diff(dy / size, axis=0, prepend=0)
    f = 0.5 * r @ r + smooth * size.sum()
    return f, (A.T @ r).reshape(N, N) + smooth * variation


def search(smooth):
    """The picture, and its error after every iteration."""
    errors = []
    res = na.minimize(
        misfit,
        np.zeros((N, N)),
        (smooth,),
        jac=True,
        lr=na.schedules.Cosine(0.3, steps=150),
        bounds=(0, None),
        maxiter=150,
        callback=lambda x: errors.append(error(x)),
    )
    return res.x, errors


positive, errors = search(0.0)
even, errors_even = search(2e-4)

# %%
# The picture
# -----------
GREY = {"cmap": "gray", "vmin": 0, "vmax": 0.5}
half = np.where(np.arange(N) < N // 2, back, even)

fig, axes = plt.subplots(figsize=(5, 4), layout="constrained")
image = axes.imshow(half, **GREY)
axes.axvline(N // 2 - 0.5, color="#E69F00", lw=1)
axes.set_title("Filtered back projection | Adam")
axes.set_axis_off()
fig.colorbar(image, label="absorption per length", extend="max", shrink=0.9)
plt.show()

# %%
# All pictures, with their distance from the truth:
pictures = {
    "truth": truth,
    "filtered back projection": back,
    "Adam, x >= 0": positive,
    "Adam, x >= 0, smooth": even,
}
fig, panels = plt.subplots(1, 4, figsize=(9.5, 2.9), layout="constrained")
for axes, (name, picture) in zip(panels, pictures.items(), strict=True):
    image = axes.imshow(picture, **GREY)
    label = f"error {error(picture):.0%}" if picture is not truth else ""
    axes.set(title=name, xlabel=label, xticks=[], yticks=[])
fig.colorbar(
    image, ax=panels, label="absorption per length", extend="max", pad=0.01
)
plt.show()

# %%
# Left: the error after each iteration. Right: the middle row of pixels.
COLORS = ["k", "#E69F00", "#0072B2", "#D55E00"]
fig, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3.8), layout="constrained"
)
left.axhline(error(back), color=COLORS[1], label="filtered back projection")
left.plot(errors, color=COLORS[2], label="Adam, x >= 0")
left.plot(errors_even, color=COLORS[3], label="Adam, x >= 0, smooth")
left.set(
    title="distance from the truth",
    xlabel="iteration",
    ylabel="error, relative to the truth",
    ylim=(0, None),
)
left.legend(frameon=False)
for color, picture in zip(COLORS, pictures.values(), strict=True):
    lw = 2 if picture is truth else 1
    right.plot(picture[N // 2], color=color, lw=lw)
right.set(
    title="the middle row",
    xlabel="column (pixels)",
    ylabel="absorption per length",
    ylim=(-0.02, 0.6),
)
plt.show()

# %%
# In short: any linear instrument that you can write as a sparse matrix
# can be inverted like this. Its adjoint is the transpose, and bounds and a
# smooth penalty cost a few lines.

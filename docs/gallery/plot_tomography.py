"""
Tomography from few views
=========================

A scanner measures how much of each ray an object absorbs. With hundreds of views filtered back
projection gives the picture at once, with 24 views it gives streaks and noise. Then it pays to
search for a picture that explains the data, and to use what else is known: nothing absorbs less
than nothing, and neighbours are mostly alike.
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
# A pixel falls between two cells of the detector and is shared by them. Then the gradient needs no
# second program: the adjoint of A is A.T, exactly.
N = 127  # cells of the detector, pixels on a side
ANGLES = np.arange(24) * 180 / 24


def projector(pixels):
    """From pictures of pixels x pixels, 2 wide, to line integrals of shape (angles * N)."""
    y, x = 1 - (np.mgrid[:pixels, :pixels].reshape(2, -1) + 0.5) * 2 / pixels
    views = []
    for angle in np.deg2rad(ANGLES):
        place = (np.sin(angle) * y - np.cos(angle) * x + 1) * N / 2 - 0.5
        left = np.floor(place).astype(int)
        cell = np.concatenate([left, left + 1])
        share = np.concatenate([left + 1 - place, place - left]) * (2 / pixels) ** 2 * N / 2
        pixel = np.tile(np.arange(pixels**2), 2)
        seen = (cell >= 0) & (cell < N)
        views.append(
            sparse.csr_array((share[seen], (cell[seen], pixel[seen])), shape=(N, pixels**2))
        )
    return sparse.vstack(views, format="csr")


A = projector(N)
rng = np.random.default_rng(0)
u, w = rng.standard_normal(N * N), rng.standard_normal(ANGLES.size * N)
print(f"<A u, w> - <u, A^T w> = {(A @ u) @ w - u @ (A.T @ w):.0e}")

# %%
# The data
# --------
# They come from a finer picture than the one that is searched for: with the same matrix on both
# sides the task would be too easy. 100,000 photons start on each ray.
fine = resize(shepp_logan_phantom(), (2 * N, 2 * N), anti_aliasing=True)
truth = fine.reshape(N, 2, N, 2).mean(axis=(1, 3))
PHOTONS = 1e5
counts = rng.poisson(PHOTONS * np.exp(-projector(2 * N) @ fine.ravel()))
data = -np.log(counts / PHOTONS)


def error(picture):
    """Distance from the truth, relative to its size; BLAS would start threads for it."""
    return np.sqrt(np.sum((picture - truth) ** 2) / np.sum(truth**2))


# %%
# Filtered back projection
# ------------------------
# With the filter that turns out best for this picture, and negative values cut off.
FILTERS = ["ramp", "shepp-logan", "cosine", "hamming", "hann"]
views = data.reshape(-1, N).T * N / 2  # scikit-image measures lengths in pixels
backs = [iradon(views, ANGLES, filter_name=name).clip(0) for name in FILTERS]
back = min(backs, key=error)


# %%
# Search for the picture
# ----------------------
# The second term is the total variation, rounded off at 0: it is small for pictures of even areas
# with sharp edges. Its weight ``smooth`` has to be chosen: more of it blurs, less leaves noise.
def misfit(x, smooth):
    """Half the squared residual, plus smooth times the total variation; and the gradient."""
    r = A @ x.ravel() - data
    dx, dy = np.diff(x, axis=1, append=x[:, -1:]), np.diff(x, axis=0, append=x[-1:])
    size = np.sqrt(dx**2 + dy**2 + 1e-4)
    variation = -np.diff(dx / size, axis=1, prepend=0) - np.diff(dy / size, axis=0, prepend=0)
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
# The pictures
# ------------
pictures = {
    "truth": truth,
    "filtered back projection": back,
    "Adam, x >= 0": positive,
    "Adam, x >= 0, even": even,
}
fig, axes = plt.subplots(1, 4, figsize=(12, 3.5), layout="constrained")
for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
    image = axis.imshow(picture, cmap="gray", vmin=0, vmax=0.5)
    label = f"error {error(picture):.0%}" if picture is not truth else ""
    axis.set(title=name, xlabel=label, xticks=[], yticks=[])
fig.colorbar(image, ax=axes, label="absorption", extend="max", pad=0.01)

# %%
# The error along the way, and a cut through the middle.
COLORS = ["k", "#E69F00", "#0072B2", "#D55E00"]
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.axhline(error(back), color=COLORS[1], label="filtered back projection")
left.plot(errors, color=COLORS[2], label="Adam, x >= 0")
left.plot(errors_even, color=COLORS[3], label="Adam, x >= 0, even")
left.set(xlabel="iteration", ylabel="error", ylim=(0, None))
left.legend(frameon=False)
for color, picture in zip(COLORS, pictures.values(), strict=True):
    right.plot(picture[N // 2], color=color, lw=2 if picture is truth else 1)
right.set(xlabel="column", ylabel="absorption in the middle row", ylim=(-0.02, 0.6))
plt.show()

# %%
# Take away: any linear instrument that you can write as a sparse matrix can be inverted like this,
# A.T is its adjoint, and bounds and a smoothed penalty cost a few lines.

r"""
Fit a FITS cube of spectra: maps of parameters and error bars
=============================================================

A spectrograph that sees a field on the sky gives a spectrum for each pixel.
An emission line in it has a height, a velocity and a width, on a continuum.
`least_squares_many` fits all 64 x 64 spectra in one call, and says for each
how sure it is.

Fitted velocities of a rotating disc, and their standard errors: small where
the line is bright.
"""

import time

import matplotlib.pyplot as plt
import numba
import numpy as np

import numadam as na

# %%
# The data
# --------
# A simulated disc of gas: it rotates, and its brightness falls outwards.
# The noise of each sample is known. One sample of a thousand is hit by a
# cosmic ray, and five pixels of the detector are dead: a mask marks both.
# The arrays are as ``astropy.io.fits.getdata`` gives them.
SIDE, NOISE = 64, 0.05
velocity = np.linspace(-600, 600, 80)  # km/s, of the samples
y, x = np.mgrid[:SIDE, :SIDE] / (SIDE / 2) - 1
radius = np.hypot(x, y) + 1e-9
truth = np.stack(
    [
        1.5 * np.exp(-radius / 0.3),  # height
        220 * np.tanh(3 * radius) * x / radius,  # velocity, km/s
        60 + 40 * np.exp(-radius / 0.3),  # width, km/s
        np.full_like(x, 0.2),  # continuum
    ],
    axis=-1,
).reshape(-1, 4)


def line(v, height, center, width, continuum):
    """A Gaussian line on a continuum."""
    return height * np.exp(-0.5 * ((v - center) / width) ** 2) + continuum


rng = np.random.default_rng(0)
clean = line(velocity, *(truth.T[:, :, None]))
noisy = clean + NOISE * rng.standard_normal(clean.shape)
cube = noisy.T.reshape(velocity.size, SIDE, SIDE).astype(">f4")
mask = (rng.uniform(size=cube.shape) < 1e-3).astype("u1")
mask[:, 10, 20:25] = 1
cube[mask > 0] = 6e4

# %%
# From a FITS file to spectra
# ---------------------------
# - **Byte order.** FITS is big-endian, which no compiled function takes:
#   ``astype(float)``.
# - **Bad samples.** They become NaN. A number would do, if the function
#   read the mask as well.
# - **Axes.** FITS counts them backwards: NumPy's order is (velocity, y, x).
#   A fit is a row, so a spectrum goes last, contiguous in memory.
cube = cube.astype(float)
cube[mask > 0] = np.nan
spectra = np.ascontiguousarray(cube.reshape(velocity.size, -1).T)
dead = np.isnan(spectra).all(axis=1)
print(f"{dead.sum()} dead pixels, {mask.sum()} bad samples")

# %%
# All fits in one call
# --------------------
# The residual of a sample is divided by its noise, so the errors are those
# of known noise: ``absolute_sigma=True``. ``r`` arrives as zeros,
# so a bad sample is left out. A dead pixel has no data: its status is 6.


@numba.njit
def residuals(p, r, i, v, spectra, noise):
    """Of spectrum i, by four parameters."""
    for k in range(v.size):
        if np.isnan(spectra[i, k]):
            continue
        u = (v[k] - p[1]) / p[2]
        line = p[0] * np.exp(-0.5 * u * u)
        r[k] = (line + p[3] - spectra[i, k]) / noise


def fit(spectra):
    """All fits: each starts at its brightest sample."""
    starts = np.tile([1.0, 0.0, 80.0, 0.2], (len(spectra), 1))
    seen = np.nan_to_num(spectra, nan=-1.0)
    starts[:, 0] = seen.max(axis=1) - 0.2
    starts[:, 1] = velocity[seen.argmax(axis=1)]
    return na.least_squares_many(
        residuals,
        starts,
        (velocity, spectra, NOISE),
        m=velocity.size,
        bounds=([0, -600, 20, None], [None, 600, 300, None]),  # low, high
        points=np.isfinite(spectra).sum(axis=1),
        absolute_sigma=True,
    )


fit(spectra[:1])  # compiles the residuals
start = time.perf_counter()
res = fit(spectra)
seconds = time.perf_counter() - start
print(f"{len(spectra)} fits in {1000 * seconds:.0f} ms")
print(f"{res.nfev.mean():.1f} evaluations of each on average")

# %%
# A fit counts where the line is seen: its height is five errors or more,
# and no parameter ended at a bound, where there is no error (NaN).
seen = np.isfinite(res.stderr).all(axis=1)
seen &= res.success & (res.x[:, 0] > 5 * res.stderr[:, 0])
print(f"a line is seen in {100 * seen.mean():.0f} % of the spectra")

# sphinx_gallery_thumbnail_number = 1
fig, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
maps = {
    "Velocity (km/s)": (res.x[:, 1], "RdBu_r", (-220, 220)),
    "Its standard error (km/s)": (res.stderr[:, 1], "viridis", (0, 30)),
}
for axes, (title, (values, colours, ends)) in zip(
    panels, maps.items(), strict=True
):
    shown = np.where(seen, values, np.nan).reshape(SIDE, SIDE)
    picture = axes.imshow(shown, cmap=colours, vmin=ends[0], vmax=ends[1])
    axes.set_title(title)
    axes.set_axis_off()
    fig.colorbar(picture, ax=axes, shrink=0.9)
plt.show()

# %%
# Are the errors right?
# ---------------------
# Here the truth is known. Divided by its error, the distance of a fit from
# it should scatter as a normal distribution of width 1.
pull = ((res.x - truth) / res.stderr)[seen]
print("scatter of distance / error:", pull.std(axis=0).round(2))

fig, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
z = np.linspace(-4, 4, 41)
axes.hist(pull[:, 1], z, density=True, color="#9ecae1", label="velocities")
axes.plot(z, np.exp(-z * z / 2) / np.sqrt(2 * np.pi), "k", label="normal")
axes.set(
    title="Distance from the truth, in standard errors",
    xlabel="(fit - truth) / error",
    ylabel="density",
)
axes.legend(frameon=False)
plt.show()

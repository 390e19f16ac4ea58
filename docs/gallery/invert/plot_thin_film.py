r"""
Design an anti-reflection coating
=================================

Glass reflects 4 % of the light at each surface. Thin layers on it reflect
more waves, and if all these waves cancel, nothing is reflected. Which
thicknesses do that for all colours? The reflectance and its derivatives are
easy to calculate, so a search can find the answer. There are many local
minima, so the search starts from two hundred random designs at once.

Reflectance in percent over the wavelength: bare glass, the usual single
layer, and the best design of eight layers. Grey: the wavelengths of the
search.
"""

import matplotlib.pyplot as plt
import numba
import numpy as np

import numadam as na

# %%
# The reflectance and its gradient
# --------------------------------
# A layer of index :math:`n` and thickness :math:`d` maps the tangential
# fields :math:`(E, H)` behind it to those in front of it. At normal
# incidence, with the phase :math:`\varphi = 2 \pi n d / \lambda`:
#
# .. math::
#    E' = E \,\cos\,\varphi + \frac{\mathrm{i}}{n} H \,\sin\,\varphi, \qquad
#    H' = \mathrm{i} n E \,\sin\,\varphi + H \,\cos\,\varphi
#
# A forward sweep stores the fields behind each layer. A backward sweep
# computes the derivatives of the reflectance with respect to them (the
# adjoint method). So the gradient with respect to all thicknesses costs
# about as much as f itself.
AIR, GLASS = 1.0, 1.52
HIGH, LOW = 2.35, 1.38  # TiO2 and MgF2, taken as free of dispersion
INDEX = np.array([LOW, HIGH] * 4)  # the first layer touches the air
WAVELENGTHS = np.arange(400.0, 701.0, 20.0)  # nm


@numba.njit
def reflectance(d, g, wavelengths, index):
    """Mean reflectance in percent; g gets its gradient (per nm)."""
    f, layers, count = 0.0, d.size, wavelengths.size
    E = np.empty(layers + 1, np.complex128)
    H = np.empty(layers + 1, np.complex128)
    c, s = np.empty(layers), np.empty(layers)
    for wavelength in wavelengths:
        E[layers], H[layers] = 1.0, GLASS  # behind the last layer
        for j in range(layers - 1, -1, -1):
            n, phase = index[j], 2 * np.pi * index[j] * d[j] / wavelength
            c[j], s[j] = np.cos(phase), np.sin(phase)
            E[j] = c[j] * E[j + 1] + 1j * s[j] / n * H[j + 1]
            H[j] = 1j * n * s[j] * E[j + 1] + c[j] * H[j + 1]
        total = AIR * E[0] + H[0]
        r = (AIR * E[0] - H[0]) / total
        f += 100 * abs(r) ** 2 / count
        # f changes by the real part of e * dE[0] + h * dH[0]
        e = 400 * AIR * np.conj(r) / total**2 / count
        e, h = e * H[0], -e * E[0]
        for j in range(layers):
            n, k = index[j], 2 * np.pi * index[j] / wavelength
            dE = -s[j] * E[j + 1] + 1j * c[j] / n * H[j + 1]
            dH = 1j * n * c[j] * E[j + 1] - s[j] * H[j + 1]
            g[j] += k * (e * dE + h * dH).real
            e, h = (
                c[j] * e + 1j * n * s[j] * h,
                1j * s[j] / n * e + c[j] * h,
            )
    return f


# %%
# A wrong gradient is the usual reason why a design does not improve. So
# compare it with finite differences first:
def check(d):
    """Largest error of the gradient, in percent per nm."""
    g = np.zeros(d.size)
    reflectance(d, g, WAVELENGTHS, INDEX)
    up, down = (
        [
            reflectance(d + h, np.zeros(d.size), WAVELENGTHS, INDEX)
            for h in step * np.eye(d.size)
        ]
        for step in (1e-3, -1e-3)
    )
    return abs(g - (np.array(up) - down) / 2e-3).max()


starts = np.random.default_rng(0).uniform(0, 200, (200, INDEX.size))
print(f"error of the gradient: {check(starts[0]):.0e} percent per nm")

# %%
# Two hundred designs
# -------------------
# A thickness changes by about lr in a step: 5 nm, which decays to 0 along a
# cosine. No layer is thinner than 0 or thicker than 250 nm. With ``gtol=0``
# all of them run until maxiter.
res = na.minimize_many(
    reflectance,
    starts,
    (WAVELENGTHS, INDEX),
    lr=na.schedules.Cosine(5.0, steps=400),
    bounds=(0, 250),
    maxiter=400,
    gtol=0,
)
best = res.best()
print("best design (nm), from the air to the glass:")
print(best.x.round(1))

# %%
# The best one
# ------------
# For comparison: bare glass, and the usual single layer of a quarter of a
# wave at 550 nm. The spectrum is drawn at wavelengths between those of the
# search, and beyond them.
fine = np.arange(380.0, 741.0, 1.0)
quarter = np.array([550 / LOW / 4])
designs = {
    "bare glass": (np.zeros(1), np.array([LOW])),
    "one layer, a quarter wave": (quarter, np.array([LOW])),
    "best of 200": (best.x, INDEX),
}
COLORS = ["#E69F00", "#009E73", "#0072B2"]

fig, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for color, (name, (d, index)) in zip(COLORS, designs.items(), strict=True):
    spectrum = [
        reflectance(d, np.zeros(d.size), np.array([w]), index) for w in fine
    ]
    axes.plot(fine, spectrum, color=color, label=name)
    mean = np.mean(spectrum, where=(fine >= 400) & (fine <= 700))
    print(f"{name:26} {mean:.3f} % reflected, mean from 400 to 700 nm")
axes.axvspan(400, 700, color="0.93", zorder=0)
axes.set(
    title="Eight layers on glass",
    xlabel="wavelength (nm)",
    ylabel="reflectance (%)",
    ylim=(0, 5),
)
axes.legend(frameon=False, loc=(0.2, 0.5))
plt.show()

# %%
# The coating, drawn to scale. Light comes from the left.
fig, axes = plt.subplots(figsize=(9, 1.9), layout="constrained")
edges = np.concatenate([[0], np.cumsum(best.x)])
for name, color, first in (
    ("MgF$_2$", "#56B4E9", 0),
    ("TiO$_2$", "#D55E00", 1),
):
    left, width = edges[first:-1:2], best.x[first::2]
    axes.barh(0, width, left=left, color=color, label=name)
axes.barh(0, 100, left=edges[-1], color="0.85", label="glass")
axes.set(xlabel="depth (nm)", yticks=[], xlim=(-60, edges[-1] + 100))
axes.set_title("the best coating", loc="right", fontsize=11)
axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
plt.show()

# %%
# How sure is "best"? All 200 results, sorted:
fig, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
axes.semilogy(np.sort(res.fun), ".-", color=COLORS[2])
axes.set(
    title="Results of 200 starts",
    xlabel="start, from the best to the worst",
    ylabel="mean reflectance (%)",
)
plt.show()

# %%
# In short: where there are many minima, one start tells you little. A
# compiled objective makes hundreds of starts cheap, and the sorted results
# show how sure you can be. Here the best was found once, so there may be a
# better one.

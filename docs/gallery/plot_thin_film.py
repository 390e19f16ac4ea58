"""
An anti-reflection coating by inverse design
============================================

Glass reflects 4 % of the light at each surface. Thin layers on it reflect some more, and where all
these waves cancel nothing is left. Which thicknesses do that for all colours? The reflectance is
easy to calculate and its derivatives are too, so the answer can be searched for: from many
random starts at once, since there are many local minima.
"""

import matplotlib.pyplot as plt
import numba
import numpy as np

import numadam as na

# %%
# Reflectance, and its gradient
# -----------------------------
# A layer of index n and thickness d turns the tangential fields (E, H) behind it into those in
# front of it by a matrix of two rows, with the phase 2 pi n d / wavelength at normal incidence. A
# forward sweep keeps the fields behind each layer. A backward sweep carries the derivative of the
# reflectance by them: the adjoint. So all thicknesses cost about twice as much as f alone.
AIR, GLASS = 1.0, 1.52
HIGH, LOW = 2.35, 1.38  # TiO2 and MgF2, taken as free of dispersion
INDEX = np.array([LOW, HIGH] * 4)  # the first layer touches the air
WAVELENGTHS = np.arange(400.0, 701.0, 20.0)  # nm


@numba.njit
def reflectance(d, g, wavelengths, index):
    """Mean reflectance in percent of layers of thickness d (nm); its gradient is added to g."""
    f, layers = 0.0, d.size
    E, H = np.empty(layers + 1, np.complex128), np.empty(layers + 1, np.complex128)
    c, s = np.empty(layers), np.empty(layers)
    for wavelength in wavelengths:
        E[layers], H[layers] = 1.0, GLASS  # behind the last layer
        for j in range(layers - 1, -1, -1):
            phase = 2 * np.pi * index[j] * d[j] / wavelength
            c[j], s[j] = np.cos(phase), np.sin(phase)
            E[j] = c[j] * E[j + 1] + 1j * s[j] / index[j] * H[j + 1]
            H[j] = 1j * index[j] * s[j] * E[j + 1] + c[j] * H[j + 1]
        r = (AIR * E[0] - H[0]) / (AIR * E[0] + H[0])
        f += 100 * abs(r) ** 2 / wavelengths.size
        # f changes by the real part of e * dE[0] + h * dH[0]
        e = 400 * AIR * np.conj(r) / (AIR * E[0] + H[0]) ** 2 / wavelengths.size
        e, h = e * H[0], -e * E[0]
        for j in range(layers):
            k = 2 * np.pi * index[j] / wavelength
            dE = -s[j] * E[j + 1] + 1j * c[j] / index[j] * H[j + 1]
            dH = 1j * index[j] * c[j] * E[j + 1] - s[j] * H[j + 1]
            g[j] += k * (e * dE + h * dH).real
            e, h = c[j] * e + 1j * index[j] * s[j] * h, 1j * s[j] / index[j] * e + c[j] * h
    return f


# %%
# A wrong gradient is the usual reason why a design does not get better. A look at differences:
def check(d):
    """The largest difference between the gradient and central differences, in percent per nm."""
    g = np.zeros(d.size)
    reflectance(d, g, WAVELENGTHS, INDEX)
    moved = [
        [reflectance(d + h, np.zeros(d.size), WAVELENGTHS, INDEX) for h in step * np.eye(d.size)]
        for step in (1e-3, -1e-3)
    ]
    return abs(g - (np.array(moved[0]) - moved[1]) / 2e-3).max()


starts = np.random.default_rng(0).uniform(0, 200, (200, INDEX.size))
print(f"error of the gradient: {check(starts[0]):.0e} percent per nm")

# %%
# Two hundred designs
# -------------------
# The learning rate is a length too: 5 nm, which a cosine brings to 0. No layer is thicker than
# 250 nm or thinner than 0. ``gtol=0`` lets all of them run to the end.
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
print("best design, nm, from the air to the glass:", best.x.round(1))

# %%
# The best one
# ------------
# To compare with: bare glass, and the usual single layer of a quarter of a wave at 550 nm. The
# spectrum is drawn at wavelengths between those of the search, and beyond them.
fine = np.arange(380.0, 741.0, 1.0)
designs = {
    "bare glass": (np.zeros(1), np.array([LOW])),
    "one layer, a quarter wave": (np.array([550 / LOW / 4]), np.array([LOW])),
    "best of 200": (best.x, INDEX),
}
COLORS = ["#E69F00", "#009E73", "#0072B2"]

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for color, (name, (d, index)) in zip(COLORS, designs.items(), strict=True):
    spectrum = [reflectance(d, np.zeros(d.size), np.array([w]), index) for w in fine]
    left.plot(fine, spectrum, color=color, label=name)
    mean = np.mean(spectrum, where=(fine >= 400) & (fine <= 700))
    print(f"{name:26} {mean:.3f} percent reflected, mean from 400 to 700 nm")
left.axvspan(400, 700, color="0.93", zorder=0)
left.set(xlabel="wavelength (nm)", ylabel="reflectance (%)", ylim=(0, 5))
left.legend(frameon=False, loc=(0.2, 0.5))
right.semilogy(np.sort(res.fun), ".-", color=COLORS[2])
right.set(xlabel="start, from the best to the worst", ylabel="mean reflectance found (%)")

# %%
# The coating, drawn to scale: light comes from the left.
fig, axis = plt.subplots(figsize=(10, 1.8), layout="constrained")
edges = np.concatenate([[0], np.cumsum(best.x)])
for name, color, first in (("MgF$_2$", "#56B4E9", 0), ("TiO$_2$", "#D55E00", 1)):
    axis.barh(0, best.x[first::2], left=edges[first:-1:2], color=color, label=name)
axis.barh(0, 100, left=edges[-1], color="0.85", label="glass")
axis.set(xlabel="depth (nm)", yticks=[], xlim=(-60, edges[-1] + 100))
axis.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
plt.show()

# %%
# Take away: where there are many minima, one start tells you little. A compiled objective makes
# hundreds of starts cheap, and the sorted ends show how sure you can be. Here the best was found
# once, so a better one may be left to find.

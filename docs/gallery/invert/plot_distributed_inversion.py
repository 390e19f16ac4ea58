r"""
Invert a heat equation on two ranks of MPI
==========================================

A hot pen has written on a cold plate. A moment later, when the heat has
spread, a camera takes a picture. Which digits were written? The plate is
cut in two, and each half is reconstructed by its own process, a rank of
MPI. Heat flows across the cut, so the ranks exchange the rows next to it.
No rank has the complete picture, but the result is that of one process.

Temperature, in units of that of the pen: on the left half as the camera
sees it, on the right half as the two ranks find it. The dashed line is the
cut between them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from handwriting import page
from scipy.fft import dctn, idctn

NOISE, TIME = 0.01, 4.0


def later(u):
    """The plate after TIME, exactly, by its cosine series."""
    rows, columns = (np.pi * np.arange(n) / n for n in u.shape)
    fade = np.exp(-TIME * (rows[:, None] ** 2 + columns**2))
    return idctn(fade * dctn(u))


truth = page()[: 5 * 28, : 7 * 28].astype(float)
noise = np.random.default_rng(0).standard_normal(truth.shape)
seen = later(truth) + NOISE * noise

program = Path(sys.argv[0]).with_name("heat_inversion.py")
folder = Path(tempfile.mkdtemp())
np.save(folder / "seen.npy", seen)
found = {}
for ranks in (1, 2):
    command = ["mpiexec", "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    command += [str(program), str(folder)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True
    )
    print(done.stdout, end="")
    parts = [folder / f"{rank}-of-{ranks}.npy" for rank in range(ranks)]
    found[ranks] = np.concatenate([np.load(part) for part in parts])

# %%
HEAT = {"cmap": "inferno", "vmin": 0, "vmax": 1}
rows, columns = truth.shape
half = np.where(np.arange(columns) < columns // 2, seen, found[2])

fig, axes = plt.subplots(figsize=(6, 4), layout="constrained")
image = axes.imshow(half, **HEAT)
axes.axvline(columns // 2 - 0.5, color="w", lw=1)
axes.axhline(rows // 2 - 0.5, color="#56B4E9", ls="--", lw=1.5)
axes.set_title("Seen | found by two ranks")
axes.set_axis_off()
fig.colorbar(image, label="temperature (pen = 1)", shrink=0.8)
plt.show()

# %%
# Left: what was written. Right: the residual, which is the picture minus
# the heat from the plate that was found. It shows no trace of the writing
# or of the cut.
rest = (seen - later(found[2])) / NOISE
fig, (left, right) = plt.subplots(
    1, 2, figsize=(9.5, 3.4), layout="constrained"
)
warm = left.imshow(truth, **HEAT)
off = right.imshow(rest, cmap="RdBu", vmin=-4, vmax=4)
left.set_title("written")
right.set_title("left over")
fig.colorbar(warm, ax=left, label="temperature (pen = 1)")
fig.colorbar(off, ax=right, label="standard deviations of the noise")
for axes in (left, right):
    axes.set_axis_off()
plt.show()

# %%
# The program of a rank
# ---------------------
# The first block starts it with ``mpiexec``, as on a cluster. Each rank
# reads its rows of the picture, searches, and writes its rows of the
# result.
#
# .. literalinclude:: ../../gallery/invert/heat_inversion.py
#    :language: python
#
# - **Ghost rows.** A block has one more row above and below: copies of the
#   neighbours' rows. ``exchange`` fills them before each step of time.
#   ``owned`` is False there, so that no row counts twice in the norm of the
#   gradient, which the stop tests use.
# - **f="local".** Each rank returns its share of f. `minimize` adds the
#   shares, always in the same order, so every rank has the same sum.
# - **The gradient** is that of the whole f with respect to this rank's
#   rows. The part from the neighbours' residuals arrives with the heat that
#   flows back. At the end the ghost rows of the gradient get the values of
#   their owners, so that ghost rows and their originals take the same step.
# - **Every decision** is the same on all ranks: when f has reached the
#   level of the noise, the callback stops every rank.
#
# The same as one process
# -----------------------
# A step of Adam computes each element by itself, and so does a step of the
# heat flow. The cut changes only the order in which f is summed.
difference = abs(found[2] - found[1]).max()
print(f"two ranks and one process: largest difference {difference:.1e}")
assert difference < 1e-12

for name, plate in {"seen": seen, "found": found[2]}.items():
    rmse = np.sqrt(np.mean((plate - truth) ** 2))
    print(f"{name}: root mean square error {rmse:.3f}")

# %%
# In short: write the exchange of ghost cells as for your solver, give
# each rank its block, and pass ``comm``. Then clipping by norm, the check
# for NaN and the stop tests use the gradient of all ranks.
# :doc:`The page on MPI </how-to/mpi>` has the other ways to share work.

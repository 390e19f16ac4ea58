"""
A hot plate on two ranks
========================

A hot pen has written on a cold plate. A moment later, when the heat has spread, a camera takes a
picture. What was written? The plate is cut in two, and each half is searched for by a process of
its own: a rank of MPI. Heat flows over the cut, so the ranks tell each other the rows next to it.
No rank has the whole picture, and yet the result is that of one process.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.fft import dctn, idctn

from numadam.demos import deconvolution

NOISE, TIME = 0.01, 4.0


def later(u):
    """The plate some time later, exactly: each wave of its cosine series fades by itself."""
    rows, columns = (np.pi * np.arange(n) / n for n in u.shape)
    return idctn(np.exp(-TIME * (rows[:, None] ** 2 + columns**2)) * dctn(u))


truth = deconvolution.handwriting()[: 5 * 28, : 7 * 28].astype(float)
seen = later(truth) + NOISE * np.random.default_rng(0).standard_normal(truth.shape)

folder = Path(tempfile.mkdtemp())
np.save(folder / "seen.npy", seen)
found = {}
for ranks in (1, 2):
    command = ["mpiexec", "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    done = subprocess.run(
        [*command, "heat_inversion.py", str(folder)], check=True, capture_output=True, text=True
    )
    print(done.stdout, end="")
    parts = [np.load(folder / f"{rank}-of-{ranks}.npy") for rank in range(ranks)]
    found[ranks] = np.concatenate(parts)

fig, axes = plt.subplots(2, 2, figsize=(9.5, 7.2), layout="constrained")
heat = {"cmap": "inferno", "vmin": 0, "vmax": 1}
rest = (seen - later(found[2])) / NOISE
axes[0, 0].imshow(truth, **heat)
axes[0, 1].imshow(seen, **heat)
warm = axes[1, 0].imshow(found[2], **heat)
off = axes[1, 1].imshow(rest, cmap="RdBu", vmin=-4, vmax=4)
axes[0, 0].set_title("written")
axes[0, 1].set_title("seen, a moment later")
axes[1, 0].set_title("found by two ranks, and the cut between them")
axes[1, 1].set_title("what is left: noise, in units of its size")
axes[1, 0].axhline(len(truth) // 2 - 0.5, color="#56B4E9", ls="--", lw=1.5)
fig.colorbar(warm, ax=axes[:, 0], location="bottom", shrink=0.7, label="temperature")
fig.colorbar(off, ax=axes[:, 1], location="bottom", shrink=0.7)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
plt.show()

# %%
# What is left shows no trace of the writing, and none of the cut.
#
# The program of a rank
# ---------------------
# The block above starts it with ``mpiexec``, as on a cluster. Each rank reads its rows of the
# picture, searches and writes its rows of the result.
#
# .. literalinclude:: ../gallery/heat_inversion.py
#    :language: python
#
# - **Ghost rows.** A block has a row more above and below: a copy of the neighbour's. ``exchange``
#   fills it before each step of time. ``owned`` is False there, so that no row counts twice in the
#   size of the gradient, which the stop tests measure.
# - **f="local".** Each rank returns its share of f. `minimize` adds the shares, always in the same
#   order, and every rank has the same sum.
# - **The gradient** is that of the whole f by this rank's rows. What the neighbours' errors add to
#   it comes with the heat that flows back. At last the ghost rows of the gradient get what their
#   owners have, so they move as these do.
# - **Every decision** is the same on all ranks: when the callback sees that f is down to the noise,
#   it sees it everywhere.
#
# As one process would do it
# --------------------------
# A step of Adam looks at one number at a time, and so does this flow of heat. The cut changes the
# order in which f is added, and nothing else.
difference = abs(found[2] - found[1]).max()
print(f"two ranks and one process: largest difference {difference:.1e}")
assert difference < 1e-12

for name, plate in {"seen": seen, "found": found[2]}.items():
    print(f"{name}: error {np.sqrt(np.mean((plate - truth) ** 2)):.3f}")

# %%
# Take away: write the exchange of ghost cells as for your solver, give each rank its block, and
# pass ``comm``. The clip of the gradient's norm, the guard against NaN and the stop tests are then
# those of the whole. The how-to page on MPI has the other ways to share work.

"""Runs of every version of the file's format: ``python -m tests.minimize.version_files``.

Each is written once, by the numadam that has that version, and stays as it is: half a run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import numadam as na
from numadam._checkpoint.header import VERSION
from tests.minimize.objectives import nested_rosen, rosen

FOLDER = Path(__file__).parent.parent / "data" / "runs"
STARTS = np.linspace(-2.0, 2.0, 60).reshape(30, 2)


def one(**options):
    """A run in Python, with a schedule that has a state, and arrays in a nesting."""
    lr = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=2)
    start = {"a/b": np.array([-1.2, 1.0]), "c": [np.ones((2, 2))]}
    run = {"jac": True, "lr": lr, "bounds": (-1.5, 1.5), "maxiter": 60}
    run |= {"xtol": 1e-9, "ftol": 1e-9}
    return na.minimize(nested_rosen, start, **(run | options))


def compiled(**options):
    """A compiled run."""
    run = {"lr": na.schedules.Cosine(0.5, steps=60), "amsgrad": True, "maxiter": 60}
    return na.minimize(rosen, np.array([-1.2, 1.0]), **(run | options))


def many(**options):
    """Many problems, some of which have stopped."""
    run = {"lr": 0.02, "gtol": 1e-2, "maxiter": 600}
    return na.minimize_many(rosen, STARTS, **(run | options))


#: Each run, and the iterations that are in its file.
RUNS = {"one": (one, 25), "compiled": (compiled, 25), "many": (many, 500)}


def path_of(name, version):
    """The file of a run."""
    return FOLDER / f"version-{version}-{name}.safetensors"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, (run, done) in RUNS.items():
        path = path_of(name, VERSION)
        if not path.exists():
            run(maxiter=done, checkpoint=path)

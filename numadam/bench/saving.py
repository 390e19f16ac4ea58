"""Sides of the cases about checkpoints: a save, and the disk's own time for as many bytes."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from numadam._checkpoint.container import Container, write
from numadam.bench.measure import Side

#: Bytes of a call of the system, as in a save: 4 MiB and more are slower, up to five times.
_PIECE = 1 << 20


def _arrays(n: int) -> dict[str, np.ndarray]:
    """Parameters of Adam and their state."""
    rng = np.random.default_rng(0)
    return {f"{name}/w": rng.standard_normal(n, dtype=np.float32) for name in "pmv"}


def _in_folder(work: Callable[[Path], object]) -> Side:
    """Work on a file in a new folder of the current one: the usual place may be in memory."""
    folder = tempfile.mkdtemp(prefix=".numadam-bench-", dir=Path.cwd())

    def side() -> None:
        work(Path(folder) / "file")

    weakref.finalize(side, shutil.rmtree, folder)
    return side


def save(n: int) -> Side:
    """A checkpoint of n parameters with two state arrays, over the one before."""
    content = Container("optimizer", {}, _arrays(n))
    return _in_folder(lambda path: write(path, content))


def plain(n: int) -> Side:
    """The same bytes into a new file, and fsync: neither checked nor safe."""
    arrays = _arrays(n)

    def work(path: Path) -> None:
        path.unlink(missing_ok=True)
        with path.open("wb", buffering=0) as file:
            for array in arrays.values():
                data = array.view(np.uint8).data
                for at in range(0, len(data), _PIECE):
                    file.write(data[at : at + _PIECE])
            os.fsync(file.fileno())

    return _in_folder(work)

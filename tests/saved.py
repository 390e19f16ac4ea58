"""Optimisers that go through a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numadam as na


def loaded(opt, **options):
    """A new optimiser from a file of this one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        opt.save(path)
        return na.load(path, **options)


def load_into(other, opt):
    """The other optimiser, with all of a file of this one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        opt.save(path)
        other.load(path)
    return other

"""Objectives that fail at a call, and runs that are cut there and go on from their file."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numba
import numpy as np

import numadam as na
from tests.minimize.objectives import rosen


class Cut(Exception):
    """The end of a run in the midst of it."""


def cut_at(function, call):
    """A function that raises at its call of this number, from 0 on; None for never."""
    calls = 0

    def fails(*args):
        nonlocal calls
        calls += 1
        if call is not None and calls > call:
            raise Cut
        return function(*args)

    return fails


@numba.njit
def compiled_cut(x, g, calls):
    """Rosenbrock's valley, which raises once `calls` of it are used up."""
    calls[0] -= 1
    if calls[0] < 0:
        raise Cut
    return rosen(x, g)


def pieces(path: Path, run, calls):
    """The result of a run that is cut at each of these calls, one after another.

    ``run(call, **options)`` raises at its call of that number, None for none.
    """
    for call in calls:
        with contextlib.suppress(Cut):
            run(call, checkpoint=path)
    return run(None, checkpoint=path)


def compiled_run(call, **options):
    """`minimize` of `compiled_cut`."""
    left = np.array([2**62 if call is None else call])
    return na.minimize(compiled_cut, np.array([-1.2, 1.0]), (left,), **options)

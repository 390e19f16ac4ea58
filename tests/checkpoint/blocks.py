"""Optimisers of blocks of a plane and a row, on ranks that are threads."""

from __future__ import annotations

import numpy as np

import numadam as na
from numadam._optimizer import shards

SHAPES = {"w": (7, 5), "b": (270,)}  # of which several ranks have shares, too
RNG = np.random.default_rng(3)
START = {key: RNG.normal(size=shape) for key, shape in SHAPES.items()}
GRADS = [{key: RNG.normal(size=shape) for key, shape in SHAPES.items()} for _ in range(6)]


class Comm:
    """What an optimiser's `comm` says of a rank's block, without MPI."""

    def __init__(self, ranks, offset=None, owned=None):
        self.ranks, self.offset, self.owned = ranks.size, offset, owned


def span(n, rank, of, ghosts=0):
    """Rows of one of several blocks of n."""
    return max(0, n * rank // of - ghosts), min(n, n * (rank + 1) // of + ghosts)


class Block:
    """A rank's optimiser, of the rows `span` of both arrays, with ghost rows at the cuts."""

    def __init__(self, ranks, ghosts=0, known=True, make=na.Adam, **options):
        self.ranks = ranks
        self.spans = {k: span(s[0], ranks.rank, ranks.size, ghosts) for k, s in SHAPES.items()}
        options = {name: self.cut(o) if type(o) is Whole else o for name, o in options.items()}
        self.opt = make(self.of(START), **{"lr": 0.1, **options})
        offset = {"w": (self.spans["w"][0], 0), "b": (self.spans["b"][0],)}
        owned = {}
        for key, (low, high) in self.spans.items():
            inner = span(SHAPES[key][0], ranks.rank, ranks.size)
            rows = np.arange(low, high)
            mine = (rows >= inner[0]) & (rows < inner[1])
            owned[key] = mine if key == "b" else np.repeat(mine[:, None], 5, 1)
        self.comm = Comm(ranks, offset if known else None, owned if ghosts else None)

    def of(self, whole):
        """This rank's rows."""
        return {key: whole[key][low:high].copy() for key, (low, high) in self.spans.items()}

    def cut(self, option):
        return option.make(lambda key, array: array[slice(*self.spans[key])])

    def run(self, first, last):
        for k in range(first, last):
            self.opt.step(self.of(GRADS[k]))
        return self

    def _held(self):
        return shards._blocks(self.opt, self.comm.owned, self.comm.offset, self.comm.ranks)

    def save(self, path):
        shards.save(self.opt, path, self.ranks, self._held, lambda: None)
        return self

    def load(self, path):
        shards.load(self.opt, path, self.ranks, self._held, lambda: None)
        return self


class Whole:
    """An option of arrays as large as the parameters: ``make(slice)`` is that of a block."""

    def __init__(self, make):
        self.make = make


def whole_run(steps, first=0, opt=None, **options):
    """The optimiser of one process, after so many steps."""
    options = {
        name: option.make(lambda _, array: array) if type(option) is Whole else option
        for name, option in options.items()
    }
    opt = opt or na.Adam(
        {key: array.copy() for key, array in START.items()}, **{"lr": 0.1, **options}
    )
    for grads in GRADS[first:steps]:
        opt.step(grads)
    return opt

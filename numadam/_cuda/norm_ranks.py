"""Totals of squares over all ranks: between the second and the third kernel of a norm.

Each rank owns a block of the arrays, and `norm_totals.make_combine` leaves the total of its block
on its GPU. The host brings the totals of all ranks together and puts their sums in the place of
the own ones, so that the third kernel decides the same on every rank. This is the one wait of a
step for the GPU.

The sums are those of `math.fsum`, rounded once: they depend on no order, and the bound of a norm
stays as it is (`norms`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numadam._backend import Exchange
from numadam._settings.same import same_numbers


class RankTotals:
    """Puts the totals of all ranks in the place of those of this rank.

    Parameters
    ----------
    exchange : Exchange
    totals : cupy.ndarray of int64
        On the GPU: a row with the bits of the totals, and a row with their exponents.
    control : numpy.ndarray
        The control block on the host.
    """

    def __init__(self, exchange: Exchange, totals: Any, control: np.ndarray) -> None:
        self._exchange, self._totals, self._control = exchange, totals, control
        exchange.words = totals.size

    def add_up(self, counted: tuple[int, int, int]) -> None:
        """Wait for the GPU, exchange, and write back. Collective.

        `counted` are t, the gradients added up before, and whether they are flushed.
        """
        import cupy

        same = same_numbers(counted, self._control)
        rows = self._exchange.gather(np.array(cupy.asnumpy(self._totals)).reshape(-1), same)
        self._totals.set(add_ranks(rows.reshape(len(rows), *self._totals.shape)))


def add_ranks(rows: np.ndarray) -> np.ndarray:
    """Totals over all ranks, as `RankTotals` has those of one.

    Parameters
    ----------
    rows : numpy.ndarray of int64
        Of the shape (ranks, 2, totals).
    """
    numbers, exponents = np.ascontiguousarray(rows[:, 0]).view(np.float64), rows[:, 1]
    sums = np.empty(rows.shape[1:], np.int64)
    for k, pair in enumerate(zip(numbers.T.tolist(), exponents.T.tolist(), strict=True)):
        total, sums[1, k] = _add(*pair)
        sums[0, k] = np.float64(total).view(np.int64)
    return sums


def _add(totals: list[float], exponents: list[int]) -> tuple[float, int]:
    """The sum of ``total * 2**(2 * exponent)``, as such a pair.

    It has the largest exponent of those that count. With it no total leaves the range (`norms`),
    and one with another exponent loses digits only where they are far below the last of the sum.
    """
    counting = [e for total, e in zip(totals, exponents, strict=True) if total != 0.0]
    common = max(counting or exponents)
    scaled = [math.ldexp(x, 2 * (e - common)) for x, e in zip(totals, exponents, strict=True)]
    return math.fsum(scaled), common

"""Schedules of a compiled minimisation: their values, tabulated for the steps of one call."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._core.hyper import LR
from numadam._settings.settings import Settings


class StepTables:
    """Tables of all that differs from step to step in a call of the kernel.

    Attributes
    ----------
    rates : float64 array (most + 1,)
        lr of each step; the first one alone where it is constant.
    columns : int64 array (changing,)
        Columns of the control block that have a schedule.
    changes : float64 array (most, changing)
        What these columns hold at each step.
    """

    def __init__(self, settings: Settings, most: int) -> None:
        group = settings.group_of_leaf[0]
        self._scheduled = [
            (column, hyper, one) for k, column, hyper, one in settings.schedules if k == group
        ]
        self.rates = np.zeros(most + 1)
        self.columns = np.array([column for column, _, _ in self._scheduled], np.int64)
        self.changes = np.zeros((most, len(self._scheduled)))

    def tabulate(self, lr: Any, t: int, steps: int) -> int:
        """Fill the tables from step t + 1 on; returns the number of steps that they hold.

        A schedule that raises does so when its step comes, not before.
        """
        if not callable(lr) and not self._scheduled:
            return steps
        steps, k = min(steps, len(self.changes)), 0
        try:
            for k in range(max(steps, 1)):
                if callable(lr):
                    self.rates[k] = LR.check(lr(t + k))
                for place, (_, hyper, one) in enumerate(self._scheduled):
                    self.changes[k, place] = hyper.check(one(t + k))
        except Exception:  # a user's function may raise anything
            if k == 0 and steps > 0:
                raise
            return k
        return steps

"""Numbers of a step that are the same in all processes that own parts of the same arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from numadam._core import options as op
from numadam._core.rule import RuleSpec

#: Before the columns of the control block: steps taken, gradients added up, and whether these are
#: flushed.
_COUNTED = ("t", "calls", "flush")
#: Columns that each process has for itself.
_OF_BLOCKS = [len(_COUNTED) + op.COLUMN.low, len(_COUNTED) + op.COLUMN.high]


def same_numbers(counted: Sequence[int], control: np.ndarray) -> np.ndarray:
    """The numbers, in float64: counters, and what no group changes in the control block."""
    numbers = np.array([*counted, *control[0]], np.float64)
    numbers[_OF_BLOCKS] = 0.0
    return numbers


def names_of_same(rule: RuleSpec) -> list[str]:
    """Names of these numbers, as the user calls them."""
    return [*_COUNTED, *op.ControlRow._fields, *rule.hyper_type._fields]

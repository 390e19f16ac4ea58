"""Layout of many problems: how many lanes, and x, bounds and step sizes as (packet, ..., lane)."""

from __future__ import annotations

from typing import Any

import numpy as np

from numadam._minimize.compiled.backend import StateOnly
from numadam._minimize.compiled.forms import form_of
from numadam._minimize.compiled.objective import adapter_for
from numadam._minimize.lanes.objective import lane_adapter_for
from numadam._minimize.observers import refuse_observers
from numadam._minimize.tasks import ManyTask
from numadam._optimizer.base import make_optimizer
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.bounds import Box, fits

#: Real numbers of one element in a packet. With 16 or 32 the compiler unrolls a loop over them
#: instead of vectorising it.
WIDE = 64
#: Problems from which lanes pay, and elements of one problem up to which they do.
_LANES_FROM, _LANES_UP_TO = 24, 16


def to_lanes(rows: np.ndarray, lanes: int) -> np.ndarray:
    """Problems in rows as (packet, ..., lane); the last row again in lanes that are not in use."""
    if lanes == 1 or rows.ndim == 0:
        return rows
    packets = -(-len(rows) // lanes)
    padded = np.concatenate([rows, np.repeat(rows[-1:], packets * lanes - len(rows), axis=0)])
    packed = padded.reshape(packets, lanes, *rows.shape[1:])
    return np.ascontiguousarray(np.moveaxis(packed, 1, -1))


def rows_of(array: np.ndarray, lanes: int) -> np.ndarray:
    """An array of (packet, ..., lane), one problem a row: a copy, unless it is so already."""
    if lanes == 1:
        return array
    return np.moveaxis(array, -1, 1).reshape(-1, *array.shape[1:-1])


def _spread(values: Any, x: np.ndarray, lanes: int) -> Any:
    """Numbers that broadcast to x, as numbers that broadcast to it in lanes."""
    if np.ndim(values) == 0:
        return values
    array = np.asarray(values)
    if array.ndim == x.ndim and len(array) > 1:
        return to_lanes(array, lanes)
    return (array[0] if array.ndim == x.ndim else array)[..., None]


def _per_element(task: ManyTask) -> list[Any]:
    """Arrays of step sizes and bounds."""
    ends = task.options["bounds"] or ()
    return [one for one in (task.lr, *ends) if np.ndim(one) > 0]


def _suits(task: ManyTask) -> bool:
    """Whether a task gains from lanes: many small problems that share their scalars."""
    x, options = task.x, task.options
    clips = any(options.get(name) is not None for name in ("clip_norm", "clip_array_norm"))
    small = len(x) >= _LANES_FROM and 0 < x[0].size <= _LANES_UP_TO
    arrays = all(hasattr(one, "shape") and fits(one, x) for one in _per_element(task))
    return small and arrays and task.rates is None and not clips


class Problems:
    """The problems of a task in the layout that suits them.

    Attributes
    ----------
    lanes : int
        Problems of a packet: 1, or as many as make `WIDE` numbers.
    adapter : ObjectiveAdapter
    optimizer : Optimizer
        On a `StateOnly` back end, over all problems.
    """

    def __init__(self, task: ManyTask) -> None:
        x, args = task.x, task.args
        shape = x.shape[1:]
        form = form_of(task.fun, args, task.jac, many=True)
        lanes = WIDE // (2 if x.dtype.kind == "c" else 1)
        adapter: Any = None
        if _suits(task):
            adapter = lane_adapter_for(task.fun, form, x.dtype, shape, args, lanes)
        if adapter is not None:
            try:
                optimizer = _make_optimizer(task, lanes)
            except (TypeError, ValueError):
                adapter = None  # raised again below, with the shapes that the user knows
        if adapter is None:
            lanes, adapter = 1, adapter_for(task.fun, form, x.dtype, len(shape), args)
            optimizer = _make_optimizer(task, 1)
        self.lanes, self.adapter, self.optimizer = lanes, adapter, optimizer


def _make_optimizer(task: ManyTask, lanes: int) -> Optimizer:
    x, lr, bounds = task.x, task.lr, task.options["bounds"]
    if task.rates is not None:
        lr = 1.0
    if lanes > 1:
        lr = _spread(lr, x, lanes)
        if bounds is not None:
            bounds = Box(*(_spread(end, x, lanes) for end in bounds))
    options = {**task.options, "bounds": bounds}
    optimizer: Optimizer = make_optimizer(
        task.rule, to_lanes(x, lanes), lr, backend=StateOnly, **options
    )
    refuse_observers(optimizer)
    return optimizer

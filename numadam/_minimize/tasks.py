"""The validated arguments of `minimize` and `minimize_many`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numadam._minimize.checkpoint import Checkpoint
from numadam._minimize.stopping import Tolerances


class Task(NamedTuple):
    """The arguments of `minimize`, validated.

    `shares` says whether each of several processes has a share of f.
    """

    x: Any
    args: tuple[Any, ...]
    jac: Any
    rule: Any
    lr: Any
    options: dict[str, Any]
    tolerances: Tolerances
    maxiter: int
    track_best: bool | None
    check_every: int | None
    every: int
    state: Any
    callback: Any
    progress: bool
    checkpoint: Checkpoint | None
    shares: bool


@dataclass(frozen=True)
class ManyTask:
    """The arguments of `minimize_many`, validated; `rates` are the problems' own step sizes."""

    fun: Any
    x: Any
    args: tuple[Any, ...]
    jac: Any
    rule: Any
    lr: Any
    rates: np.ndarray | None
    options: dict[str, Any]
    tolerances: Tolerances
    maxiter: int
    check_every: int | None
    progress: bool
    checkpoint: Checkpoint | None

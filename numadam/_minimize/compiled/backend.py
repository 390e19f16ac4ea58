"""Back end of a compiled minimisation: state and arguments, but no step of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from numadam._backend import Leaves
from numadam._cpu.state import CpuState
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.settings import Settings


class DrivenStore(CpuState):
    """State and table of one array, with a gradient array of its own and no step compiled."""

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
        self.begin()


@functools.cache
def driven(rule: type[Optimizer]) -> Any:
    """The same class without a compiled step, for a loop that has its own."""
    own = {"_backend_for": staticmethod(lambda leaves, names: DrivenStore), "__doc__": rule.__doc__}
    return type(rule.__name__, (rule,), {**own, "__module__": rule.__module__})

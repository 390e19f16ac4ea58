"""Back end of a compiled minimisation: state and arguments, but no step of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._backend import Backend, Leaves
from numadam._cpu.state import CpuState
from numadam._settings.settings import Settings


class StateOnly(CpuState):
    """State and arguments of one array: the kernel of the minimisation has its own step."""

    rate_array = staticmethod(Backend.rate_array)

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
        self.begin()

    def restart(self, x: Any) -> None:
        """Begin anew at x: state, counters and products as they were at first."""
        self.params[0][...] = x
        self.reset()

    def copies(self) -> dict[str, Any]:
        """Copies of counters and state of the one array, by name."""
        found: dict[str, Any] = {"t": self.t}
        for k, name in enumerate(self.settings.plan.products):
            found[name] = self.products[:, k].copy()
        for name, (view,) in self.state.items():
            found[name] = np.array(view)
        return found

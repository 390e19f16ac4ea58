"""Back end of a compiled minimisation: state and arguments, but no step of its own."""

from __future__ import annotations

from collections.abc import Sequence

from numadam._backend import Backend, Leaves
from numadam._cpu.state import CpuState
from numadam._settings.settings import Settings


class StateOnly(CpuState):
    """State and arguments of one array: the kernel of the minimisation has its own step."""

    rate_array = staticmethod(Backend.rate_array)

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
        self.begin()

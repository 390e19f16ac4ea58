"""Back end of a compiled minimisation: state and arguments, but no step of its own."""

from __future__ import annotations

from collections.abc import Sequence

from numadam._backend import Leaves
from numadam._cpu.state import CpuState
from numadam._settings.settings import Settings


class DrivenStore(CpuState):
    """State and table of one array, with a gradient array of its own and no step compiled."""

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
        self.begin()

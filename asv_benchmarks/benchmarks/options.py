"""A step with each option, and of each rule, against the plain step or another library."""

from numadam.bench.option_cases import OPTION_CASES

from .common import Tracked, large

_NAMES = [case.name for case in OPTION_CASES]


class ByBytes(Tracked):
    """Ratio of times, divided by the ratio of the bytes that the two steps move."""

    params = [name for name in _NAMES if name.endswith("-10M")]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"


class Targets(Tracked):
    params = [
        "idle-1M",
        "accumulate-memory",
        *large("state-bfloat16-50M", "lazy-rows"),
    ]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"

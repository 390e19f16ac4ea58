"""Start-up: the import, and a process from its start to the end of its first step."""

# by name: asv reads a module's attribute `processes` as an option
from numadam.bench.processes import FIRST_STEP, run_python

from .common import Tracked


class Import:
    """On top of numpy's own import, which is not timed."""

    number = 1  # a second import in the same process costs nothing
    repeat = 15

    def timeraw_import_numadam(self):
        return "import numadam", "import numpy"


class FirstStep:
    def setup(self):
        run_python(FIRST_STEP.format(n=1_000_000) + "print(0)")  # fills numadam's cache

    def timeraw_first_step_warm(self):
        return FIRST_STEP.format(n=1_000_000)

    timeraw_first_step_warm.number = 1
    timeraw_first_step_warm.repeat = 5


class AgainstTorch(Tracked):
    """The same / a process that imports torch and takes a step."""

    params = ["first-step-cold-1000", "first-step-warm"]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"


class Large(Tracked):
    params = ["first-step-cold-1M"]

    def track_seconds(self, name):
        return self.value()

    track_seconds.unit = "seconds"

"""Start-up: the import, and a process from its start to the end of its first step."""

# by name: asv reads a module's attribute `processes` as an option
from numadam.bench.processes import FIRST_STEP, first_step, run_python


class Import:
    """On top of numpy's own import, which is not timed."""

    number = 1  # a second import in the same process costs nothing
    repeat = 15

    def timeraw_import_numadam(self):
        return "import numadam", "import numpy"


class FirstStep:
    timeout = 300  # a cold start compiles, five times

    def setup(self):
        run_python(FIRST_STEP.format(n=1_000_000) + "print(0)")  # fills numadam's cache

    def timeraw_first_step_warm(self):
        return FIRST_STEP.format(n=1_000_000)

    def track_first_step_warm(self):
        return first_step(cold=False)(5).value

    track_first_step_warm.unit = "s"

    def track_first_step_cold(self):
        return first_step(cold=True, n=1000)(5).value

    track_first_step_cold.unit = "s"
    timeraw_first_step_warm.number = 1
    timeraw_first_step_warm.repeat = 5

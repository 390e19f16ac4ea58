"""Base class of the benchmarks: it tracks a case of ``numadam.bench``."""

import os

from numadam.bench.cases import named
from numadam.bench.peers import Unavailable

#: The 50M cases take 3 GB and a minute: only where asked for.
LARGE = os.environ.get("NUMADAM_BENCH_LARGE") == "1"


class Tracked:
    """Track the values of cases; lower is better, a ratio is ours / theirs.

    ``params`` are names of cases. A case that cannot run here is skipped: asv takes
    NotImplementedError in `setup` for that.
    """

    param_names = ("case",)
    params: list[str] = []
    pairs = 15
    timeout = 300

    def setup(self, name):
        try:
            case = named(name)
        except ValueError as error:  # a commit before this case
            raise NotImplementedError(str(error)) from error
        reason = case.missing()
        if reason:
            raise NotImplementedError(reason)
        try:
            self._measure = case.prepare()  # compiles or loads
        except Unavailable as error:
            raise NotImplementedError(str(error)) from error

    def value(self):
        return self._measure(self.pairs).value


def large(*names):
    """Names of large cases, or none."""
    return list(names) if LARGE else []

"""Cases of the benchmarks, and what their sides share."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from numadam._bench import machine_memory, measure, peers
from numadam._bench.peers import Unavailable

#: The large cases take 3 GB and a minute: only where asked for.
LARGE = os.environ.get("NUMADAM_BENCH_LARGE") == "1"
#: Elements of an array, iterations and problems at most: a run with a small limit shows that every
#: case works, and its figures mean nothing.
LIMIT = int(os.environ.get("NUMADAM_BENCH_LIMIT", 2**62))


@dataclass(frozen=True)
class Figure:
    """The value of a case; seconds per call where two sides were timed; ratio by design; a note."""

    value: float
    ours: float | None = None
    theirs: float | None = None
    expected: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One row of a table.

    `make` makes everything ready and returns what measures: pairs -> figure. The target is a value
    to stay at or below. `needs` are modules; a case that needs much `memory` (GiB) is a large one.
    """

    what: str
    target: float
    make: Callable[[], Callable[[int], Figure]]
    needs: tuple = ()
    memory: float = 0.0
    by: str = "bytes"

    def missing(self):
        """Why the case cannot run here, or ""."""
        try:
            peers.need(*self.needs)
        except Unavailable as reason:
            return str(reason)
        if machine_memory() < self.memory * 2**30:
            return f"needs {self.memory:g} GiB of memory"
        return ""


#: The cases of all classes that were imported, by name.
CASES: dict[str, Case] = {}


class Cases:
    """Base of the benchmarks: they track the values of their cases, of which less is better.

    asv skips a case whose `setup` raises NotImplementedError.
    """

    cases: dict = {}
    unit = "ratio"
    timeout = 300
    param_names = ("case",)

    def __init_subclass__(cls):
        CASES.update(cls.cases)
        cls.params = [name for name, case in cls.cases.items() if LARGE or not case.memory]

    def setup(self, name):
        if reason := self.cases[name].missing():
            raise NotImplementedError(reason)
        try:
            self.figure = self.cases[name].make()  # compiles or loads
        except Unavailable as error:
            raise NotImplementedError(str(error)) from error

    def value(self, name):
        return self.figure(15 if size(15) == 15 else 1).value


def size(n):
    """As many elements as the limit allows."""
    return min(n, LIMIT)


def values(n, dtype="f4", seed=0):
    return peers.values(size(n), dtype, seed)


def step(n, *args, **options):
    """A step of numadam, as `numadam._bench.peers` makes it."""
    return functools.partial(peers.step, size(n), *args, **options)


def ratio(ours, theirs, pairs, expected=1.0):
    """Time ours / theirs: the median over pairs of samples, one right after the other."""
    mine, other = measure.rounds((ours, theirs), pairs)
    value = median(a / b for a, b in zip(mine, other, strict=True))
    return Figure(value / expected, median(mine), median(other), expected)


def pair(ours, theirs, expected=1.0):
    """Make a case of two functions that make a side each."""

    def make():
        return functools.partial(ratio, ours(), theirs(), expected=expected)

    return make


def seconds(side):
    """Make a case of the seconds of a side."""

    def make():
        made = side()
        return lambda pairs: Figure(median(measure.rounds([made], pairs)[0]))

    return make


def counted(function, *arguments):
    """Make a case of a function of the number of pairs."""
    return lambda: functools.partial(function, *arguments)


def run_python(words, environment=None):
    """The last word that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"a benchmark process failed: {done.stderr.strip()}")
    return done.stdout.split()[-1]


def under_layer(layer, module, name):
    """Measure a case of a module in a process of its own that has this threading layer."""

    def figure(pairs):
        source = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
            "import dataclasses, json\n"
            f"import benchmarks.{module}\n"
            "from benchmarks.common import CASES\n"
            f"figure = dataclasses.asdict(CASES[{name!r}].make()({pairs}))\n"
            "print(json.dumps(figure, separators=(',', ':')))"
        )
        return Figure(**json.loads(run_python(["-c", source], {"NUMBA_THREADING_LAYER": layer})))

    return lambda: figure

"""Fixtures of the tests on several ranks, and how they fail.

    mpiexec -n 2 python -m mpi4py -m pytest -n0 tests/mpi

Every rank runs the same tests in the same order. The ranks agree on the outcome of each: what
fails on one fails on all, and rank 0 alone prints. A failure that leaves the other ranks inside a
collective call ends the run after a few seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tests import extras, processes

#: seconds: that a rank which failed waits for the others, that a test may take, and that ranks
#: of numadam wait for those that compile on a busy machine
PATIENCE, LIMIT, COMPILING = 60.0, 1200, 600.0
PASSED, FAILED = "passed", "failed"

# more ranks than cores: those of MPICH that wait sleep instead of taking turns in a loop
os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")
ABSENT = extras.lacking("mpi")
if not ABSENT:
    try:
        from mpi4py import MPI
    except RuntimeError as error:  # no library of MPI
        ABSENT = f"mpi4py finds no MPI: {error}"


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> Any:
    """Skip files without importing them where there is no MPI."""
    return extras.Absent.file(module_path, parent, "mpi", ABSENT) if ABSENT else None


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Iterator[None]:
    """Leave out the docstrings of such files, which would have to be imported."""
    found = yield
    return [one for one in found if isinstance(one, extras.Absent)] if ABSENT else found


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs more ranks; end a test that is stuck in a call of MPI."""
    for item in [] if ABSENT else items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.mpi)
        item.add_marker(pytest.mark.timeout(LIMIT, method="thread"), append=False)
        for mark in item.iter_markers("ranks"):
            if MPI.COMM_WORLD.size < mark.args[0]:
                item.add_marker(pytest.mark.skip(f"needs {mark.args[0]} ranks (.ci/run mpi)"))


# --- one outcome on all ranks -------------------------------------------------------------------


class Silent:
    """A reporter that prints what keeps this rank from running tests, and nothing else."""

    def __init__(self, writer: Any) -> None:
        self._tw = writer  # pytest-timeout writes to it

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            last = report.longreprtext.strip().splitlines()[-1]
            self._tw.line(f"rank {MPI.COMM_WORLD.rank}: {report.nodeid}: {last}")

    def pytest_internalerror(self, excrepr: Any) -> None:
        self._tw.line(f"rank {MPI.COMM_WORLD.rank}: {excrepr}")


class Together:
    """Give each test the worst outcome that it has on any rank, and all their messages."""

    def __init__(self) -> None:
        self.comm = MPI.COMM_WORLD.Dup()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        # most phases pass everywhere: a few bytes, not the texts
        words = [report.outcome != PASSED, zlib.crc32(item.nodeid.encode())]
        alike = self.exchange(words, PATIENCE if report.outcome == FAILED else None)
        if alike is None:
            self.abort(f"{item.nodeid}\n{report.longreprtext}")
        if alike and report.outcome == PASSED:
            return report
        every = self.comm.allgather((report.outcome, report.longreprtext, item.nodeid))
        ids, outcomes = {one[2] for one in every}, {one[0] for one in every}
        if len(ids) > 1:
            self.abort(f"the ranks run different tests: {sorted(ids)}")
        if FAILED in outcomes or len(outcomes) > 1:
            report.outcome, report.longrepr = FAILED, _told(every)
        return report

    def exchange(self, words: list[int], patience: float | None = None) -> bool | None:
        """Whether all ranks have these words; None where they have not come in time."""
        rows = np.empty((self.comm.size, len(words)), np.int64)
        request = self.comm.Iallgather(np.array(words, np.int64), rows)
        begin = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - begin
            if patience is not None and waited > patience:
                return None
            time.sleep(0 if waited < 1e-3 else 1e-3)  # a core has several ranks
        return bool((rows == rows[0]).all())

    def abort(self, text: str) -> NoReturn:
        """End all ranks: some are inside a call of MPI and would wait for ever."""
        rank = self.comm.rank
        sys.__stderr__.write(f"\n=== rank {rank}, alone, and so all ranks end: {text}\n")
        sys.__stderr__.flush()
        self.comm.Abort(1)
        raise SystemExit(1)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Wait until rank 0 has printed: a rank that ends with an error ends all.

        A rank that did not wait would leave the others here for ever. Those that end otherwise
        than through here do so with an error.
        """
        sys.stdout.flush()
        if self.exchange([0], LIMIT) is None:
            self.abort("the others do not end")
        shutil.rmtree(config.option.basetemp, ignore_errors=True)


def _told(every: list[Any]) -> str:
    """Outcomes of all ranks, the failures first, and each message once."""
    said: dict[str, list[str]] = {}
    for rank, (outcome, text, _) in enumerate(every):
        said.setdefault(f"{outcome}\n{text}", []).append(str(rank))
    first = sorted(said.items(), key=lambda item: not item[0].startswith(FAILED))
    return "\n".join(f"rank {', '.join(ranks)}: {text}" for text, ranks in first)


@pytest.hookimpl(specname="pytest_configure", tryfirst=True)  # before it is read
def pytest_own_folder(config: pytest.Config) -> None:
    """Give each rank a folder of its own for `tmp_path`.

    Several processes that remove old folders of pytest's at once meet files that are gone.
    """
    if ABSENT or MPI.COMM_WORLD.size == 1:
        return
    rank, given = MPI.COMM_WORLD.rank, config.option.basetemp
    config.option.basetemp = (
        f"{given}-{rank}" if given else tempfile.mkdtemp(prefix=f"rank-{rank}-")
    )


@pytest.hookimpl(trylast=True)  # the reporter is there
def pytest_configure(config: pytest.Config) -> None:
    """Let several ranks agree, and rank 0 alone print."""
    if ABSENT or MPI.COMM_WORLD.size == 1:
        return
    if getattr(config.option, "numprocesses", 0):
        raise pytest.UsageError("several ranks: add -n0, each rank is one process")
    config.pluginmanager.register(Together(), "together")
    if MPI.COMM_WORLD.rank:
        reporter = config.pluginmanager.unregister(name="terminalreporter")
        config.pluginmanager.register(Silent(reporter._tw), "terminalreporter")


# --- fixtures -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def patient_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that has failed waits for others that still compile what it has not begun."""
    from numadam import _mpi as ranks

    monkeypatch.setattr(ranks, "LEFT_ALONE", COMPILING)


@pytest.fixture
def comm() -> Any:
    """All ranks of this run."""
    return MPI.COMM_WORLD


@pytest.fixture
def shared_path(comm: Any, tmp_path: Path) -> Path:
    """An empty folder, the same one on all ranks."""
    return Path(comm.bcast(str(tmp_path)))


@pytest.fixture
def mpiexec() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``mpiexec(ranks, *words)``: a program on ranks of its own; `python -m mpi4py` runs it."""
    if MPI.COMM_WORLD.size > 1:
        pytest.skip("starts ranks of its own, from one rank (.ci/run mpi)")
    return processes.mpiexec

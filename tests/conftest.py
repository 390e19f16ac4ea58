"""Fixtures of all tests."""

import gc
import logging
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.doctest import DoctestModule

from tests import budget, emulator, extras

# collections of garbage took a fifth of the time in which pytest reads and rewrites these files
gc.set_threshold(1_000_000)

# an assert of a helper then says what it compared, as those of the tests do
pytest.register_assert_rewrite(
    "tests.bits",
    "tests.cuda.cuda_cases",
    "tests.cuda.kernel_code",
    "tests.golden",
    "tests.minimize.objectives",
    "tests.processes",
    "tests.runs",
    "tests.trees",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the tests in tests/cuda/gpu."""
    what = "run the tests of a GPU on an emulated one, where the machine has none"
    parser.addoption("--emulate", action="store_true", help=what)


def pytest_configure(config: pytest.Config) -> None:
    """Start the emulator before anything imports CuPy, and listen to what is compiled."""
    logging.getLogger("numadam").addHandler(_Loops())
    if config.getoption("emulate") and not emulator.why_not() and not emulator.has_gpu():
        emulator.start()


# --- loops that a run compiles: tests/budget.py has their number ----------------------------------

#: Their plans, each with the times that it was compiled: serial, parallel, with `out`.
LOOPS: Counter[str] = Counter()


class _Loops(logging.Handler):
    """Notes the name of each loop that numadam compiles in this process; objectives are users'."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "numadam" and str(record.msg).startswith("compiled ") and record.args:
            plan = re.sub(r", out=|, in threads|-blocks$", "", str(record.args[0]))
            LOOPS[plan] += 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the loops of a worker that is done."""
    LOOPS.update(getattr(node, "workeroutput", {}).get("loops", {}))


def too_many_loops(config: pytest.Config) -> bool:
    """Whether a run of all usual tests, and not of some files, has compiled too many."""
    usual = config.getoption("markexpr") == "not sweep" and not config.getoption("file_or_dir")
    return usual and len(LOOPS) > budget.MOST_LOOPS


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that has compiled too many; workers hand theirs on."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["loops"] = dict(LOOPS)
    elif too_many_loops(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Tell how many loops were compiled."""
    most, text = budget.MOST_LOOPS, f"{LOOPS.total()} loops compiled, of {len(LOOPS)} plans"
    if too_many_loops(config):
        text += f", and at most {most} are allowed: share plans among tests, or mark some as sweeps"
    terminalreporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Iterator[list[pytest.Collector]]:
    """Examples are looked for in numadam alone; here all programs would be imported for them."""
    found = yield
    return [file for file in found if not isinstance(file, DoctestModule)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the examples in the docstrings of rules, as their tests are."""
    for item in items:
        if item.nodeid.startswith("numadam/rules/"):
            item.add_marker(pytest.mark.rule)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[pytest.CollectReport]:
    """Fail a file that skips for a reason which no stage of .ci/run takes away."""
    report = yield
    return _with_stage(report)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[pytest.TestReport]:
    """Fail a test that skips for a reason which no stage of .ci/run takes away."""
    report = yield
    return _with_stage(report)


def _with_stage(report: Any) -> Any:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not extras.has_stage(reason):
            report.outcome = "failed"
            report.longrepr = f"a skip without a stage that runs it (tests/extras.py): {reason}"
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose extra is not installed; in the CI's stage for it the test fails."""
    for mark in item.iter_markers():
        if mark.name in extras.EXTRAS:
            extras.require(mark.name, *mark.args)


@pytest.fixture(autouse=True, scope="module")
def spare_the_collector() -> None:
    """Exclude all objects that exist before a file of tests begins from its collections.

    Numba keeps millions of objects for the loops that one process of a test run compiles, and a
    test that calls ``gc.collect()`` sixty times took minutes. Collections while it compiles take an
    eighth of that time: they are rare.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def ctrl_c():
    """Python's own handler: a process started in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def quick_files(monkeypatch):
    """Files that do not wait for the disk, 0.4 ms instead of 10: where no test cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(params=["serial", "parallel"])
def form(request, monkeypatch):
    """Serial or parallel form of the loops, for every optimiser of the test, whatever its size."""
    from numadam._jit import process

    process.layer()  # chosen as a large optimiser would choose it
    monkeypatch.setattr(process, "wants_parallel", lambda total: request.param == "parallel")
    return request.param


@pytest.fixture(params=[1, 2])
def thread_count(request):
    """Number of threads that Numba's parallel loops use."""
    import numba

    from numadam._jit import process

    extras.need_machine(request.param <= numba.config.NUMBA_NUM_THREADS, "second thread of Numba")
    process.layer()
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)

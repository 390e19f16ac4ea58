"""The benchmarks: how they time, which cases there are, what they print. No timed assertion."""

import re
import subprocess
import sys

import numpy as np
import pytest

from numadam._jit import threads
from numadam.bench import cli, machine, minimize_peers, noise, peers, processes, report
from numadam.bench.case import Case
from numadam.bench.cases import CASES, TARGETS, named
from numadam.bench.measure import Figure, ratio, repeats, rounds
from numadam.bench.option_cases import OPTION_CASES


class Clock:
    """A clock that only moves when a side runs or somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.calls.append("sleep")
        self.now += seconds

    def side(self, name, *costs):
        rest = list(costs)

        def work():
            self.calls.append(name)
            self.now += rest.pop(0) if len(rest) > 1 else rest[0]

        return work


def test_ratio_of_a_known_pair():
    clock = Clock()
    figure = ratio(
        clock.side("a", 2e-6), clock.side("b", 4e-6), pairs=5, clock=clock, sleep=clock.sleep
    )
    assert figure.value == pytest.approx(0.5, rel=1e-6)
    assert figure.ours == pytest.approx(2e-6, rel=1e-6)
    assert figure.theirs == pytest.approx(4e-6, rel=1e-6)


def test_first_calls_are_not_timed():
    clock = Clock()
    compiles = clock.side("a", 9.0, 1.0)
    figure = ratio(compiles, clock.side("b", 1.0), pairs=1, clock=clock, sleep=clock.sleep)
    assert figure == Figure(1.0, 1.0, 1.0)


def test_a_few_slow_samples_do_not_move_the_ratio():
    clock = Clock()
    # 3 warm-ups, 1 to count, then a turn untimed and a turn timed for each pair
    costs = [1.0] * 4 + [1.0, 50.0] * 2 + [1.0]
    figure = ratio(
        clock.side("a", *costs), clock.side("b", 2.0), pairs=5, clock=clock, sleep=clock.sleep
    )
    assert figure.value == 0.5


def test_sides_take_turns_in_going_first():
    clock = Clock()
    a, b = clock.side("a", 1.0), clock.side("b", 1.0)
    ratio(a, b, pairs=3, clock=clock, sleep=clock.sleep)
    turns = "".join(clock.calls).split("sleep")[1:]
    assert turns == ["aa", "bb", "bb", "aa", "aa", "bb"]


@pytest.mark.parametrize("cost", [1e-8, 1.7e-6, 3e-4, 0.5])
def test_repeats_fill_a_sample(cost):
    clock = Clock()
    count = repeats(clock.side("a", cost), sample=1e-3, clock=clock)
    assert count * cost >= 1e-3 * (1 - 1e-6)
    assert count == 1 or count * cost < 1e-2


def test_ratio_refuses_no_pairs():
    with pytest.raises(ValueError, match="pairs: expected 1 or more, got 0"):
        ratio(int, int, pairs=0)


def test_ratio_by_what_is_expected():
    clock = Clock()
    figure = ratio(
        clock.side("a", 3.0),
        clock.side("b", 2.0),
        pairs=1,
        expected=1.25,
        clock=clock,
        sleep=clock.sleep,
    )
    assert figure == Figure(1.2, 3.0, 2.0, 1.25)


def test_three_sides_take_turns():
    clock = Clock()
    sides = [clock.side(name, cost) for name, cost in (("a", 1.0), ("b", 2.0), ("c", 4.0))]
    assert rounds(sides, 2, clock=clock, sleep=clock.sleep) == [[1.0] * 2, [2.0] * 2, [4.0] * 2]
    turns = "".join(clock.calls).split("sleep")[1:]
    assert turns == ["aa", "bb", "cc", "cc", "bb", "aa"]


ALL = (*TARGETS, *OPTION_CASES)


def test_names_are_different():
    assert len({case.name for case in ALL}) == len(ALL)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_case_has_what_the_table_needs(case):
    assert re.fullmatch(r"[a-zA-Z0-9-]+", case.name)
    assert case.what
    assert case.target >= 0
    assert case.unit in ("ratio", "s", "B")
    assert named(case.name) is case


def test_unknown_case_names_the_others():
    with pytest.raises(ValueError, match=r"--case: there is no 'x'\. Choose from: roofline-50M, "):
        named("x")


#: Cases that are large, or measured in processes of their own.
NOT_HERE = re.compile(r"-(5|10|20)M|^workqueue|^first-step")


@pytest.mark.parametrize(
    "name",
    [
        case.name
        for case in CASES
        if case.quick and case.unit == "ratio" and not NOT_HERE.search(case.name)
    ],
)
def test_both_sides_run(name):
    case = named(name)
    if case.missing():
        pytest.skip(case.missing())
    if "deepspeed" in case.needs:
        pytest.skip("builds for a minute")
    measuring = case.prepare()
    ours, theirs = measuring.args
    ours()
    theirs()


def test_case_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert named("torch-1M").missing() == "torch is not installed"
    row = cli.run_case(named("torch-1M"), quick=True)
    assert "skipped: torch is not installed" in report.line(report.cells(row))


def test_large_case_is_left_out_where_memory_is_short(monkeypatch):
    monkeypatch.setattr("numadam.bench.case.machine_memory", lambda: 4.0)
    assert named("roofline-50M").missing() == "needs 8 GiB of memory"


def test_quick_leaves_out_large_cases():
    row = cli.run_case(named("roofline-50M"), quick=True)
    assert row.figure is None
    assert row.skipped


def test_numpy_peer_is_adam():
    def taken(side):  # the first step of Adam moves every element by lr
        cells = dict(zip(side.__code__.co_freevars, side.__closure__, strict=True))
        return cells["p"].cell_contents

    side = peers.numpy_adam(5, np.float64)
    before = taken(side).copy()
    side()
    moved = np.abs(taken(side) - before)
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-5)


def test_roofline_reads_four_streams_and_writes_three():
    side = peers.roofline(7)
    p, g, m, v = (a.copy() for a in side.arrays)
    side()
    for after, before in zip(side.arrays, (p + g, g, m + g, v + g), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_roofline_runs_as_the_step_does(layer, monkeypatch):
    """In parts and threads of the same number, whatever the layer."""
    if layer == "workqueue":
        threads.layer()
        monkeypatch.setattr(threads, "layer", lambda: "workqueue")
    monkeypatch.setattr(threads, "wants_parallel", lambda total: True)
    side = peers.roofline(100_001)
    p, g, m, v = (a.copy() for a in side.arrays)
    side()
    for after, before in zip(side.arrays, (p + g, g, m + g, v + g), strict=True):
        np.testing.assert_array_equal(after, before)


def test_serial_side_never_runs_in_parallel():
    run = peers.matmuls(784, 64, serial=True)
    cells = dict(zip(run.__code__.co_freevars, run.__closure__, strict=True))
    cpu_step = cells["optimizer"].cell_contents._backend.compiled
    assert cpu_step.kernel is cpu_step.serial


def test_memory_of_a_side_that_keeps_and_one_that_does_not():
    kept = []
    keeps = processes.memory(lambda: kept.append(bytes(10_000)), peak=False)(3)
    assert 10_000 <= keeps.value < 12_000
    transient = processes.memory(lambda: len(bytes(10_000)), peak=False)(3)
    assert transient.value == 0
    peak = processes.memory(lambda: len(bytes(10_000)), peak=True)(3)
    assert 10_000 <= peak.value < 12_000


def test_case_under_a_layer_is_measured_in_its_own_process():
    figure = processes.under_layer("workqueue", "numpy-1000")(1)
    assert figure.value > 0
    assert figure.ours > 0
    code = "import os; print(os.environ.get('NUMBA_THREADING_LAYER', 'free'))"
    for layer, variable in (("workqueue", "workqueue"), ("tbb", "free")):
        environment = processes.layer_environment(layer)
        said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
        assert said.strip() == variable


def test_processor_of_the_targets():
    assert machine.compared(machine.RECORDED).endswith("a processor like this one")
    other = {**machine.RECORDED, "model": "85", "caches": {"L2": "1024K"}}
    said = machine.compared(other)
    assert "set on AMD EPYC (family 25, model 17), 2 cores, L1d 32K, L2 1024K, L3 32768K" in said
    assert "WARNING: this machine differs (model, caches)" in said
    about = machine.machine()
    assert machine.introduction(about).count("\n") == 1
    assert about["processor"] in machine.introduction(about)


def test_overhead_is_what_an_iteration_adds():
    figure = minimize_peers.overhead(1)
    assert figure.value == figure.ours / figure.theirs > 0


def test_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"(?s)a benchmark process failed: .*NameError"):
        processes.run_python("oops")


def test_watch_knows_a_share_or_nothing():
    busy = noise.Load().busy()
    assert busy is None or 0 <= busy <= 1


def test_busy_case_is_measured_again_and_the_quietest_counts(monkeypatch):
    shares = iter([0.9, 0.5, 0.7, 0.0])
    monkeypatch.setattr(noise.Load, "busy", lambda self: next(shares))
    monkeypatch.setattr(noise, "wait_until_quiet", lambda end: None)
    figures = iter([Figure(1.0), Figure(2.0), Figure(3.0), Figure(4.0)])
    case = Case("x", "what", 1.0, lambda: lambda pairs: next(figures))
    assert cli.run_case(case, quick=True, wait=60.0).figure == Figure(4.0)


def test_without_waiting_a_case_is_measured_once(monkeypatch):
    monkeypatch.setattr(noise.Load, "busy", lambda self: 0.9)
    case = Case("x", "what", 1.0, lambda: lambda pairs: Figure(1.0))
    assert cli.run_case(case, quick=True).busy == 0.9


def test_waiting_ends_when_it_is_quiet_or_late(monkeypatch):
    shares = iter([0.9, 0.0])
    monkeypatch.setattr(noise.Load, "busy", lambda self: next(shares))
    noise.wait_until_quiet(noise.time.monotonic() + 60, nap=0.0)
    assert list(shares) == []
    noise.wait_until_quiet(noise.time.monotonic() - 1)  # late: nobody is asked


def test_figure_of_a_busy_machine_is_in_doubt():
    case = Case("x", "what", 1.0, lambda: None)
    assert report.cells(report.Row(case, Figure(0.5), busy=0.0))[5] == "yes"
    assert report.cells(report.Row(case, Figure(0.5), busy=0.5))[5] == "yes?"
    assert report.cells(report.Row(case, Figure(1.5), busy=None))[5] == "NO"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (1.5, "1.5 s"), (0.0123, "12.3 ms"), (1.7e-6, "1.7 us"), (5e-8, "50 ns")],
)
def test_seconds_for_people(value, text):
    assert report.seconds(value) == text


def test_by_what_a_case_is_divided():
    figure = Figure(0.01, 1.0, 1.0, 100.0)
    row = report.Row(named("rosen-numpy"), figure, busy=0.0)
    assert report.cells(row)[-1].endswith("(100 of its iterations)")

"""`python -m numadam bench`: how it times, its table, and what it refuses."""

import argparse
import re

import numpy as np
import pytest

from numadam import _bench as bench
from numadam._bench import add_arguments, measure, peers, run
from numadam._bench.measure import SAMPLE, repeats, rounds
from numadam._jit import process
from tests.bench import load

by_hand, sides = load("benchmarks.by_hand"), load("benchmarks.sides")


class Clock:
    """The module `time`, of a clock that only moves when a side runs or somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def perf_counter(self):
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


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(measure, "time", made)
    return made


def test_first_calls_are_not_timed(clock):
    assert rounds([clock.side("a", 9.0, 1.0), clock.side("b", 1.0)], 1) == [[1.0], [1.0]]


def test_sides_take_turns_in_going_first(clock):
    sides = [clock.side(name, cost) for name, cost in (("a", 1.0), ("b", 2.0), ("c", 4.0))]
    assert rounds(sides, 2) == [[1.0] * 2, [2.0] * 2, [4.0] * 2]
    turns = "".join(clock.calls).split("sleep")[1:]
    assert turns == ["aa", "bb", "cc", "cc", "bb", "aa"]


@pytest.mark.parametrize("cost", [1e-8, 1.7e-6, 3e-4, 0.5])
def test_repeats_fill_a_sample(clock, cost):
    count = repeats(clock.side("a", cost))
    assert count * cost >= SAMPLE * (1 - 1e-6)
    assert count == 1 or count * cost < 10 * SAMPLE


def test_a_few_slow_samples_do_not_move_the_ratio(monkeypatch):
    times = [[1.0, 1.0, 50.0, 1.0, 50.0], [2.0] * 5]
    monkeypatch.setattr(measure, "rounds", lambda sides, count: times)
    row = bench.compare({"numadam": int, "NumPy": int}, 5)
    assert row["ratio"] == {"NumPy": 0.5}
    assert row["seconds"] == {"numadam": 1.0, "NumPy": 2.0}


def test_watch_knows_a_share_or_nothing():
    busy = measure.Load().busy()
    assert busy is None or 0 <= busy <= 1
    assert 0 <= measure.busy_now(nap=0.0) <= 1


def cells(side):
    """Variables of a closure."""
    code = side.__code__.co_freevars
    return {n: c.cell_contents for n, c in zip(code, side.__closure__, strict=True)}


@pytest.mark.parametrize(
    ("make", "rtol"),
    [
        (lambda: peers.numpy_adam(5, np.float64), 1e-5),
        pytest.param(lambda: peers.optax_adam(4), 1e-3, marks=pytest.mark.peers("optax")),
    ],
    ids=["numpy", "optax"],
)
def test_peer_is_adam(make, rtol):
    side = make()
    before = np.array(cells(side)["p"])
    side()  # the first step of Adam moves every element by lr
    np.testing.assert_allclose(np.abs(np.array(cells(side)["p"]) - before), 1e-3, rtol=rtol)


@pytest.mark.parametrize("name", by_hand.KINDS)
def test_loops_by_hand_take_the_steps_of_numadam(name, monkeypatch):
    """Uncompiled: prange is range then."""
    monkeypatch.setattr(peers, "_compiled", lambda loop, parallel: loop)
    monkeypatch.setattr(peers, "timed", lambda side, count: 0.0)
    _, options, peer, _ = by_hand.KINDS[name]
    side = peer(50)
    ours = peers.step(50, **options)
    for _ in range(cells(side)["t"]):
        ours()
    for _ in range(5):
        ours(), side()
    arrays, optimizer = cells(side)["given"], ours.func.__self__
    np.testing.assert_allclose(arrays[0], optimizer.params, rtol=2e-6, atol=2e-7)
    if name == "options":
        np.testing.assert_allclose(arrays[4], optimizer.averaged, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("parallel", [False, True])
def test_roofline_reads_four_streams_and_writes_three(parallel, monkeypatch):
    """In the parts of the step, the last of which is shorter."""
    monkeypatch.setattr(process, "wants_parallel", lambda total: parallel)
    side = sides.Roofline(100_001)
    p, g, m, v = (a.copy() for a in side.arrays)
    side()
    for after, before in zip(side.arrays, (p + g, g, m + g, v + g), strict=True):
        np.testing.assert_array_equal(after, before)


def test_minimisation_does_all_iterations_on_both_sides():
    ours, theirs = (make(300)() for make in (sides.minimize, sides.numpy_loop))
    assert ours.nit == 300
    np.testing.assert_allclose(ours.x_last, theirs, rtol=1e-9)


def test_sides_that_are_not_there_say_why():
    def missing(n):
        raise peers.Unavailable("torch is not installed")

    found = bench.available({"numadam": peers.step, "torch": missing, "other": missing})
    assert found == ({"numadam": peers.step}, ["torch is not installed"])
    with pytest.raises(peers.Unavailable, match="no_such_module is not installed"):
        peers.need("numpy", "no_such_module")


def options(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def two_sides(monkeypatch):
    kept = {name: bench.SIDES[name] for name in ("numadam", "NumPy")}
    monkeypatch.setattr(bench, "SIDES", kept)
    monkeypatch.setattr(measure, "busy_now", lambda: 0.0)


def test_sizes_are_one_table(two_sides, capsys):
    assert run(options("--size", "10", "--size", "1e3", "--quick")) == 0
    out = capsys.readouterr().out
    assert re.search(r"\| *elements \| numadam +\| NumPy +\| busy +\|", out)
    assert re.search(r"\|      1,000 \| [0-9.]+ [num]s +\| [0-9.]+ [num]s \([0-9.]+\)", out)
    assert out.count("\n|") == 4


@pytest.mark.parametrize(("force", "measured"), [(False, False), (True, True)])
def test_busy_machine_is_refused_unless_forced(two_sides, monkeypatch, capsys, force, measured):
    monkeypatch.setattr(measure, "busy_now", lambda: 0.51)
    monkeypatch.setattr(measure.Load, "busy", lambda self: 0.51)
    args = options("--size", "1", "--quick", *["--force"] * force)
    if not force:
        with pytest.raises(RuntimeError, match="other programs use 51% of the machine: wait, or"):
            run(args)
        assert not capsys.readouterr().out
        return
    assert run(args) == 0
    err = capsys.readouterr().err
    assert err == "The machine was busy: other programs used up to 51% of it. Measure again.\n"


def test_quiet_machine_is_not_named(two_sides, monkeypatch, capsys):
    monkeypatch.setattr(measure.Load, "busy", lambda self: 0.05)
    assert run(options("--size", "1", "--quick")) == 0
    assert capsys.readouterr().err == ""


def test_sizes_that_do_not_fit_are_left_out(monkeypatch):
    monkeypatch.setattr(bench, "machine_memory", lambda: 2.0 * 2**30)
    fitting, lost = bench.sizes_for(False, None)
    assert max(fitting) == 10_000_000
    assert lost == ["50,000,000 elements need 6.52 GiB"]
    assert max(bench.sizes_for(True, None)[0]) == 1_000_000
    assert bench.sizes_for(True, [3])[0] == [3]
    with pytest.raises(
        RuntimeError, match=r"--size: 1,000,000,000,000 elements need 1\.3e\+05 GiB"
    ):
        run(options("--size", "1e12"))


@pytest.mark.parametrize("size", ["few", "0.5", "nan", "inf", "-1"])
def test_misuse_of_numbers(size, capsys):
    with pytest.raises(SystemExit) as stop:
        options("--size", size)
    assert stop.value.code == 2
    assert f"--size: expected a whole number of at least 1, got '{size}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"), [(1.5, "1.5 s"), (0.0123, "12.3 ms"), (1.7e-6, "1.7 us"), (5e-8, "50 ns")]
)
def test_seconds_for_people(value, text):
    assert bench.seconds_text(value) == text

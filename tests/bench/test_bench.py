"""`python -m numadam bench`: how it times, its table, and what it refuses."""

import argparse
import re

import numpy as np
import pytest

from numadam import _bench as bench
from numadam._bench import add_arguments, measure, peers, run
from numadam._bench.measure import SAMPLE, repeats, rounds
from tests import extras
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


@pytest.mark.parametrize("name", ["adam", *map(extras.sweep, by_hand.KINDS.keys() - {"adam"})])
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

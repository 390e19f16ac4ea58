"""The benchmarks of options: both sides run and do what they say. No timed assertion."""

import argparse
import importlib.util

import numpy as np
import pytest

import numadam
from numadam.bench import add_arguments, cli, option_cases, option_peers, processes, report
from numadam.bench.cases import named
from numadam.bench.measure import Figure
from numadam.bench.option_cases import OPTION_CASES, OPTIONS, VARIANTS
from numadam.rules import CLASSES

RULES = list(CLASSES.values())


@pytest.mark.parametrize("name", OPTIONS)
def test_step_with_an_option_runs(name):
    if "bfloat16" in name:
        pytest.importorskip("ml_dtypes")
    ours, theirs, expected = option_cases.sides(100, "Adam", OPTIONS[name])
    ours()
    theirs()
    assert 0.4 < expected < 3.0


@pytest.mark.parametrize("rule", RULES)
def test_step_of_a_rule_runs(rule):
    ours, _, expected = option_cases.sides(100, rule, {})
    ours()
    assert 0.4 < expected <= 1.0


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_of_a_rule_runs(name):
    option_cases.sides(100, *VARIANTS[name])[0]()


def test_every_rule_and_option_has_a_case():
    names = {case.name for case in OPTION_CASES}
    assert {f"{name}-10M" for name in OPTIONS} < names
    assert {f"rule-{rule.lower()}-10M" for rule in RULES} - {"rule-adam-10M"} < names


@pytest.mark.parametrize(
    ("rule", "options", "each"),
    [
        ("Adam", {}, 28),  # reads p, g, m, v, writes p, m, v
        ("SGD", {}, 12),
        ("SGD", {"momentum": 0.9}, 20),
        ("RMSprop", {"centered": True, "momentum": 0.9}, 36),
        ("Adam", {"amsgrad": True}, 36),
        ("Adam", {"lr": option_peers.rates}, 32),
        ("Adam", {"bounds": (-3.0, 3.0)}, 28),
        ("Adam", {"bounds": option_peers.box}, 36),
        ("Adam", {"accumulate": 3}, 32),
        ("AdamW", {"clip_norm": 1.0, "ema": 0.9}, 40),  # + g once more, the average in and out
        # the norm reads g, p and both bounds once more
        ("Adam", {"bounds": option_peers.box, "nonfinite": "skip"}, 52),
        ("Adam", {"accumulate": 3, "clip_norm": 1.0}, 40),
        ("Adam", {"dtype": "float16"}, 22),
        ("Adam", {"dtype": "float16", "master": True}, 28),  # p is only written
        ("Adam", {"dtype": "float64"}, 56),
        ("Adam", {"dtype": "complex64"}, 28),
        ("Adam", {"dtype": "complex64", "complex_form": "modulus"}, 24),
    ],
)
def test_traffic_is_what_the_arrays_say(rule, options, each):
    assert option_peers.option(100, rule, options)[1] == each * 100


def test_traffic_of_a_call_that_adds():
    assert option_peers.option(100, "Adam", {"accumulate": 3}, adds=True)[1] == 12 * 100


@pytest.mark.parametrize(("calls", "steps"), [(0, 0), (1, 0), (2, 3)])
def test_call_that_takes_a_step_or_adds(calls, steps):
    optimizer = numadam.Adam(np.ones(5), accumulate=3)
    call = option_peers.call_after(optimizer, np.ones(5), calls)
    for _ in range(3):
        call()
    assert optimizer.t == steps


@pytest.mark.peers("torch")
def test_usual_step_is_the_same_in_torch():
    import torch

    def cells(side):
        return dict(zip(side.__code__.co_freevars, side.__closure__, strict=True))

    theirs, ours = option_peers.torch_usual(100), option_peers.usual(100)
    for _ in range(5):
        ours()
    optimizer = ours.func.__self__
    their = {name: cell.cell_contents for name, cell in cells(theirs).items()}
    for _ in range(5):
        # they clip the gradient in place, and then clip it again
        their["tensor"].grad = torch.from_numpy(ours.args[0].copy())
        theirs()
    got = (optimizer.params, optimizer.averaged)
    for mine, other in zip(got, (their["tensor"], their["average"]), strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=1e-5, atol=1e-7)


def test_idle_step_has_no_momentum_left():
    side = option_peers.idle(20, steps=1000)
    side()
    optimizer = side.func.__self__
    assert optimizer.t == 1011
    assert not optimizer.state["m"].any()
    assert optimizer.state["v"].all()


def test_lazy_side_touches_a_share_of_the_rows():
    lazy, dense = option_peers.embedding(100, 4, 0.05)
    table, every = lazy.func.__self__.params, dense.func.__self__.params
    before, all_before = table.copy(), every.copy()
    lazy()
    dense()
    assert (table != before).any(axis=1).sum() == 5
    assert (every != all_before).all()


def test_memory_that_accumulate_adds():
    figure = option_peers.accumulating(100_000, 3)(1)
    assert 0.9 < figure.value < 1.2


def test_peak_of_what_is_kept_and_what_is_not():
    assert 10_000 <= processes.peak(lambda: bytes(10_000)) < 12_000
    assert processes.peak(lambda: None) < 1000


def test_sides_without_torch(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert named("usual-10k").missing() == "torch is not installed"


def test_command_has_the_other_table(monkeypatch, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    taken = []

    def run_here(args, cases):
        taken.extend(cases)
        return {}

    monkeypatch.setattr(cli, "_run_here", run_here)
    assert cli.run(parser.parse_args(["--options"])) == 0
    assert taken == list(OPTION_CASES)


def test_table_says_the_ratio_of_bytes():
    row = report.Row(named("ema-10M"), Figure(1.05, 1.35, 1.0, 36 / 28), busy=0.0)
    assert report.cells(row)[3] == "1.050"
    assert report.cells(row)[-1].endswith("(1.29 of its bytes)")

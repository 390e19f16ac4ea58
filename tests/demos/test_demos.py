"""The demos learn, draw, time what is compiled, and say in one sentence what they miss."""

import ast
import re
import sys

import numpy as np
import pytest

import numadam as na
from numadam._cli import main
from numadam._demos import mlp
from numadam._demos.mlp import Digits, MissingExtra, Training, read_digits
from numadam._version import install_command
from tests.processes import python

WATCHED = """
import sys, time
from numba.core import event
from numadam._cli import main
log, clock = [], time.perf_counter
class Compiling(event.Listener):
    def on_start(self, event):
        log.append("compile")
    def on_end(self, event):
        pass
def watched():
    if sys._getframe(1).f_globals["__name__"].startswith("numadam._demos"):
        log.append("clock")
    return clock()
event.register("numba:compile", Compiling())
time.perf_counter = watched
assert main(WORDS) == 0
print(log)
"""


@pytest.fixture
def command(tmp_path):
    """Runs a demo in a process that has no compiled loops; returns what it printed.

    It has drawn, and nothing was compiled between two looks at the clock.
    """

    def run(*words):
        path = tmp_path / "x.png"
        code = f"WORDS = {['demo', *words, '--output', str(path)]}" + WATCHED
        *lines, log = python(code, NUMBA_CACHE_DIR=str(tmp_path)).splitlines()
        log = ast.literal_eval(log)
        begin, *_, end = (k for k, what in enumerate(log) if what == "clock")
        assert "compile" in log[:begin]
        assert "compile" not in log[begin:end]
        assert str(path) in lines[-1]
        assert path.read_bytes().startswith(b"\x89PNG")
        return lines

    return run


def test_the_network_reaches_97_percent(command):
    lines = command()
    accuracies = [float(line.split()[-1]) for line in lines if "accuracy" in line]
    assert len(accuracies) == 22
    assert 0.85 < accuracies[-2] < 0.92  # the nearest mean
    assert accuracies[-1] >= 0.97


@pytest.mark.parametrize("module", ["matplotlib.figure", "threadpoolctl"])
def test_a_missing_extra_is_one_sentence(module, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=re.escape(install_command("demo"))):
        mlp.main(tmp_path / "x.png")
    assert main(["demo", "--output", str(tmp_path / "x.png")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert module.split(".")[0] in errors


# --- the network of mlp --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return mlp.load()


@pytest.fixture(scope="module")
def few(digits):
    """Some of the digits: a test has little time."""
    return Digits(digits.x[:500], digits.y[:500], digits.x_val[:200], digits.y_val[:200])


def test_digits_are_those_of_scikit_learn():
    """The same images in the same order, and so the same source and licence."""
    from sklearn.datasets import load_digits

    images, labels = read_digits()
    theirs = load_digits()
    np.testing.assert_array_equal(images, theirs.images / 16)
    np.testing.assert_array_equal(labels, theirs.target)


def test_backward_is_the_gradient_of_the_loss(digits):
    x, y = digits.x[:7].astype(np.float64), digits.y[:7]

    def fun(params):
        grads = {name: np.empty_like(value) for name, value in params.items()}
        mlp.backward(params, x, y, grads)
        return mlp.cross_entropy(mlp.forward(params, x)[1], y)[0], grads

    start = mlp.init(np.random.default_rng(3), (64, 5, 10))
    start = {name: value.astype(np.float64) for name, value in start.items()}
    check = na.check_grad(fun, start, jac=True, tolerance=1e-6)
    assert check.ok, check


def test_a_short_run_lowers_the_loss_and_repeats_bit_for_bit(few):
    seen = []
    how = Training(epochs=4, batch=50, hidden=16)
    result = mlp.train(few, how, each_epoch=seen.append)
    assert len(result.batch_losses) == 40
    assert result.epochs == seen
    assert result.epochs[-1].loss < 0.7 * result.epochs[0].loss
    assert result.params["w1"].shape == (64, 16)
    assert result.stopped == "40 steps"
    again = mlp.train(few, how).params
    for name, value in result.params.items():
        np.testing.assert_array_equal(again[name], value)


def test_training_stops_where_told(few):
    how = Training(epochs=40, batch=50, hidden=16, stop_accuracy=0.5)
    result = mlp.train(few, how)
    assert result.stopped == "validation accuracy reached 0.5"
    *before, last = (epoch.accuracy >= 0.5 for epoch in result.epochs)
    assert last
    assert not any(before)

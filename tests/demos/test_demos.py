"""The demos learn, draw, time what is compiled, and say in one sentence what they miss."""

import ast
import re
import sys

import numpy as np
import pytest

import numadam as na
from numadam._cli import main
from numadam._demos import MissingExtra, decays, mlp
from numadam._demos.mlp import Digits, Training, read_digits
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


def test_fits_beat_the_logarithms(command):
    lines = command("decays", "--side", "32")
    assert lines[0].startswith("1,024 fits")
    assert lines[1] == "converged: 100.00 %"
    quick, fitted = (float(line.split()[-2]) for line in lines[2:4])
    assert fitted < 0.3 * quick


MISSING = [
    (mlp, "matplotlib.figure", "matplotlib"),
    (mlp, "threadpoolctl", "threadpoolctl"),
    (decays, "pywt.data", "PyWavelets"),
]


@pytest.mark.parametrize(("demo", "module", "package"), MISSING, ids=range(3))
def test_a_missing_extra_is_one_sentence(demo, module, package, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=re.escape(install_command("demo"))):
        demo.main(tmp_path / "x.png")
    name = demo.__name__.split(".")[-1]
    assert main(["demo", name, "--output", str(tmp_path / "x.png")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert package in errors


# --- decays --------------------------------------------------------------------------------------


def test_the_misfit_of_a_decay_has_the_right_gradient():
    what = decays.simulate(side=4)
    check = na.check_grad(decays.misfit, np.array([0.8, 0.6]), (5, what.t, what.samples))
    assert check.ok, check


def test_log_linear_is_exact_without_noise():
    what = decays.simulate(side=4, noise=0.0)
    np.testing.assert_allclose(decays.log_linear(what), what.lifetimes, rtol=1e-9)


# --- the network of mlp --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return mlp.load()


@pytest.fixture(scope="module")
def few(digits):
    """Some of the digits: a test has little time."""
    return Digits(digits.x[:500], digits.y[:500], digits.x_val[:200], digits.y_val[:200])


def test_digits_are_split_without_overlap(digits):
    assert digits.x.shape == (1397, 64)
    assert digits.x_val.shape == (400, 64)
    assert digits.x.dtype == np.float32
    assert 0 <= digits.x.min() < digits.x.max() == 1
    assert set(digits.y) == set(digits.y_val) == set(range(10))


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


def test_l2_pulls_and_bounds_hold(few):
    base = {"epochs": 3, "batch": 50, "hidden": 16}
    plain = mlp.train(few, Training(**base)).params
    held = mlp.train(few, Training(**base, l2=1e-2, bounds=(-0.1, 0.1))).params
    assert max(abs(value).max() for value in plain.values()) > 0.1
    for value in held.values():
        assert abs(value).max() <= np.float32(0.1)
    # a pixel that is 0 in all images has no gradient but that of L2
    dead = ~few.x.any(axis=0)
    assert dead.any()
    pulled = mlp.train(few, Training(**base, l2=1e-2)).params
    assert abs(pulled["w1"][dead]).mean() < 0.9 * abs(plain["w1"][dead]).mean()

"""The demos learn, draw, and say in one sentence what they miss."""

import ast
import re
import sys

import numpy as np
import pytest

from numadam._version import install_command
from numadam.cli import main
from numadam.demos import MissingExtra, decays, mlp
from tests.processes import python


def test_the_command_reaches_97_percent_and_draws(tmp_path, capsys):
    path = tmp_path / "curves.png"
    assert main(["demo", "--output", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    accuracies = [float(line.split()[-1]) for line in lines if "accuracy" in line]
    assert len(accuracies) == 22
    assert 0.85 < accuracies[-2] < 0.92  # the nearest mean
    assert accuracies[-1] >= 0.97
    assert str(path) in lines[-1]
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("demo", "module", "package"),
    [
        (mlp, "matplotlib.figure", "matplotlib"),
        (mlp, "threadpoolctl", "threadpoolctl"),
        (decays, "pywt.data", "PyWavelets"),
    ],
)
def test_a_missing_extra_is_one_sentence(demo, module, package, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=re.escape(install_command("demo"))):
        demo.main(tmp_path / "x.png")
    name = demo.__name__.split(".")[-1]
    assert main(["demo", name, "--output", str(tmp_path / "x.png")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert package in errors


WATCHED = """
import sys, time
from numba.core import event
from numadam.cli import main
log, clock = [], time.perf_counter
class Compiling(event.Listener):
    def on_start(self, event):
        log.append("compile")
    def on_end(self, event):
        pass
def watched():
    if sys._getframe(1).f_globals["__name__"].startswith("numadam.demos"):
        log.append("clock")
    return clock()
event.register("numba:compile", Compiling())
time.perf_counter = watched
assert main(WORDS) == 0
print(log)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["mlp", "--epochs", "1"],
        ["decays", "--side", "32"],
    ],
    ids=lambda words: words[0],
)
def test_what_a_demo_times_is_compiled(words, tmp_path):
    """Nothing is compiled between two looks at the clock, in a folder without compiled loops."""
    words = ["demo", *words, "--output", str(tmp_path / "x.png")]
    out = python(f"WORDS = {words}" + WATCHED, NUMBA_CACHE_DIR=str(tmp_path), timeout=250)
    log = ast.literal_eval(out.splitlines()[-1])
    begin, *_, end = (k for k, what in enumerate(log) if what == "clock")
    assert "compile" in log[:begin]
    assert "compile" not in log[begin:end]


# --- the decays ---------------------------------------------------------------------------------


def test_the_misfit_of_a_decay_has_the_right_gradient():
    what = decays.simulate(side=4)
    x, g, unused = np.array([0.8, 0.6]), np.zeros(2), np.zeros(2)
    decays.misfit(x, g, 5, what.t, what.samples)
    for k, unit in enumerate(np.eye(2) * 1e-6):
        ends = [decays.misfit(x + s * unit, unused, 5, what.t, what.samples) for s in (1, -1)]
        assert g[k] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-7)


def test_log_linear_is_exact_without_noise():
    what = decays.simulate(side=4, noise=0.0)
    np.testing.assert_allclose(decays.log_linear(what), what.lifetimes, rtol=1e-9)


def test_fits_beat_the_logarithms_and_draw(tmp_path, capsys):
    path = tmp_path / "x.png"
    assert main(["demo", "decays", "--side", "32", "--output", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1,024 fits")
    assert lines[1] == "converged: 100.00 %"
    quick, fitted = (float(line.split()[-2]) for line in lines[2:4])
    assert fitted < 0.3 * quick
    assert path.read_bytes().startswith(b"\x89PNG")

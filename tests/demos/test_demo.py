"""The demos learn, draw, and say in one sentence what they miss."""

import ast
import re
import sys

import numpy as np
import pytest

from numadam._version import install_command
from numadam.cli import main
from numadam.demos import MissingExtra, decays, deconvolution, lstm, mlp, quadratic
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
        (lstm, "pywt.data", "PyWavelets"),
        (lstm, "threadpoolctl", "threadpoolctl"),
        (deconvolution, "pywt.data", "PyWavelets"),
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
        pytest.param(["lstm", "--steps", "2"], marks=pytest.mark.sweep),
        pytest.param(["deconvolution", "--steps", "2"], marks=pytest.mark.sweep),
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


def test_without_mpi4py_a_demo_on_ranks_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert main(["demo", "mlp", "--mpi"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.endswith(f"needs mpi4py, which is not installed: {install_command('mpi')}\n")


def test_the_quadratic_reaches_its_minimum():
    result = quadratic.solve()
    assert result.start > 1
    assert result.end <= 1e-12
    assert result.steps < 1000
    np.testing.assert_allclose(2 * result.params["w"] + result.params["b"], 4, atol=1e-5)


def test_the_quadratic_stops_when_told():
    assert quadratic.solve(most=3).steps == 3


def test_quadratic_gradients_are_those_of_its_loss():
    w, b = np.array([0.3, -1.0, 2.0]), np.array(0.5)
    grads = quadratic.gradients(w, b)
    h = 1e-6
    for k, unit in enumerate(np.eye(3)):
        slope = (quadratic.loss(w + h * unit, b) - quadratic.loss(w - h * unit, b)) / (2 * h)
        np.testing.assert_allclose(grads["w"][k], slope, rtol=1e-7)
    slope = (quadratic.loss(w, b + h) - quadratic.loss(w, b - h)) / (2 * h)
    np.testing.assert_allclose(grads["b"], slope, rtol=1e-7)


# --- the recurrent network ----------------------------------------------------------------------


def test_back_propagation_through_time_is_the_gradient():
    from numadam.demos.lstm_network import backward, forward, init

    rng = np.random.default_rng(0)
    params = init(rng, 3, scale=2.0, dtype="f8")
    x, target = rng.standard_normal((2, 6, 2))

    def loss(params):
        return 0.5 * np.sum((forward(params, x).outputs - target) ** 2)

    grads = {key: np.empty_like(value) for key, value in params.items()}
    trace = forward(params, x)
    backward(params, trace, trace.outputs - target, grads)
    for key, value in params.items():
        numeric = np.empty_like(value)
        for at in np.ndindex(value.shape):
            unit = np.zeros_like(value)
            unit[at] = 1e-6
            ends = [loss({**params, key: value + sign * unit}) for sign in (1, -1)]
            numeric[at] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(grads[key], numeric, rtol=1e-6, atol=1e-8)


def test_autoregression_finds_a_recurrence():
    values = np.cos(0.3 * np.arange(50.0))  # x_t = 2 cos(0.3) x_{t-1} - x_{t-2}
    series = lstm.Series(values, 30)
    np.testing.assert_allclose(lstm.autoregression(series, 2), values[2:], atol=1e-9)
    expected = np.sqrt(np.mean(np.diff(values)[-20:] ** 2))
    assert series.rmse(lstm.persistence(series)) == pytest.approx(expected)


def test_forecasts_do_not_see_the_sample_they_forecast():
    from numadam.demos.lstm_network import init

    series = lstm.load()
    changed = lstm.Series(series.values.copy(), series.learnt)
    changed.values[-1] += 100
    params = init(np.random.default_rng(0), 4)
    for ahead in (lambda s: lstm.forecast(params, s), lstm.autoregression, lstm.persistence):
        np.testing.assert_array_equal(ahead(changed), ahead(series))


def test_gradients_explode_and_clipping_beats_the_linear_forecast(tmp_path, capsys):
    assert main(["demo", "lstm", "--output", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out
    rows = (line.strip().rsplit(maxsplit=1) for line in out.splitlines()[3:-1])
    figures = {name: float(error) for name, error in rows}
    assert float(out.splitlines()[1].split()[-1]) > 100  # the largest norm
    assert figures["LSTM with clip_norm=0.1"] < 0.9 * figures["linear, of the last 4"]
    assert figures["linear, of the last 4"] < figures["LSTM without clipping"]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


# --- the photograph -----------------------------------------------------------------------------


def test_sharpening_stops_at_the_noise_and_never_goes_below_zero():
    what = deconvolution.scene(deconvolution.handwriting()[:120, :120], radius=3, noise=0.01)
    found = deconvolution.sharpen(what)
    free = deconvolution.sharpen(what, bounds=None)
    assert found.x.min() == 0
    assert free.x.min() < -0.1
    assert found.status == 99  # stopped by the callback
    assert found.fun <= 0.5 * 0.01**2 * found.x.size
    assert what.psnr(found.x) > what.psnr(free.x) + 2 > what.psnr(what.seen) + 4


def test_the_misfit_has_the_right_gradient():
    what = deconvolution.scene(np.random.default_rng(0).random((16, 12)), radius=2)
    what = what._replace(lens=what.lens.astype(np.float64))
    x, d = np.random.default_rng(1).random((2, 16, 12))
    above, below = what.misfit(x + 1e-3 * d)[0], what.misfit(x - 1e-3 * d)[0]
    assert above - below == pytest.approx(2e-3 * np.vdot(what.misfit(x)[1], d), rel=1e-9)


def test_deconvolution_draws(tmp_path, capsys):
    path = tmp_path / "x.png"
    assert main(["demo", "deconvolution", "--steps", "30", "--output", str(path)]) == 0
    figures = [
        float(line.split(" dB")[0].split()[-1])
        for line in capsys.readouterr().out.splitlines()[1:4]
    ]
    assert figures[0] + 2 < figures[1] < figures[2]
    assert path.read_bytes().startswith(b"\x89PNG")


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

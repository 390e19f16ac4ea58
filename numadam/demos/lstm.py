"""A recurrent network forecasts a heartbeat, its gradients explode, and `clip_norm` cures it.

LSTM(128) and Dense(1) learn the first three quarters of an electrocardiogram and forecast the
rest, one sample ahead. The mathematics are in `numadam.demos.lstm_network`. The recurrent weights
begin too large, so an error is multiplied on its way back through time: the norm of the gradient
jumps by orders of magnitude. Adam's second moment remembers such a jump for hundreds of steps.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import numadam as na
from numadam.demos import common
from numadam.demos.lstm_network import Array, Params, backward, forward, init

EXAMPLES = """\
examples:
  python -m numadam demo lstm                without and with clipping, 10 s
  python -m numadam demo lstm --start 1      recurrent weights of usual size
  python -m numadam demo lstm --clip-norm 1  clip at another norm
"""


class Series(NamedTuple):
    """A recording, and how many samples of it are learnt; the rest is forecast."""

    values: Array
    learnt: int

    @property
    def scale(self) -> float:
        """Standard deviation of the differences that are learnt."""
        return float(np.diff(self.values[: self.learnt]).std())

    @property
    def differences(self) -> Array:
        """Input and target of the network: sample minus sample before, scaled, float32."""
        return np.asarray(np.diff(self.values) / self.scale, np.float32)

    def rmse(self, forecast: Array) -> float:
        """Root mean square error on the samples that were not learnt, in units of the recording.

        `forecast` ends with the last sample.
        """
        fresh = len(self.values) - self.learnt
        return float(np.sqrt(np.mean((forecast[-fresh:] - self.values[-fresh:]) ** 2)))


class Result(NamedTuple):
    """A trained network; the loss and the norm of the gradient at each step."""

    params: Params
    losses: list[float]
    norms: list[float]
    seconds: float


def load() -> Series:
    """Read the electrocardiogram of 1024 samples that PyWavelets ships."""
    return Series(common.pywt_data().ecg().astype(np.float64), 768)


def train(
    series: Series,
    *,
    clip_norm: float = np.inf,
    start: float = 4.5,
    cells: int = 128,
    steps: int = 150,
    window: int = 64,
    batch: int = 16,
    lr: float = 1e-2,
    seed: int = 0,
    each_step: Callable[[], object] = lambda: None,
) -> Result:
    """Train on random windows of the series; every update is one ``opt.step()``.

    Parameters
    ----------
    series : Series
    clip_norm : float
        Of the optimiser; infinity clips nothing, but the norm is measured.
    start : float
        Size of the first recurrent weights; 1 is usual.
    cells, steps, window, batch : int
        Memory cells, steps of the optimiser, samples of a window, windows of a step.
    lr : float
        Learning rate at the first step; it falls to 0 along a cosine.
    seed : int
        Of the first weights and of the windows.
    each_step : callable
        Called after each step: to show progress.
    """
    rng = np.random.default_rng(seed)
    params = init(rng, cells, start)
    schedule = na.schedules.Cosine(lr, steps=steps)
    opt = common.compiled(lambda arrays: na.Adam(arrays, lr=schedule, clip_norm=clip_norm), params)
    u = series.differences[: series.learnt - 1]
    losses, norms, begin = [], [], time.perf_counter()
    with common.one_blas_thread():
        for _ in range(steps):
            at = rng.integers(0, len(u) - window, batch) + np.arange(window + 1)[:, None]
            trace = forward(params, u[at[:-1]])
            error = trace.outputs - u[at[1:]]
            error[:8] = 0  # it has to see some samples first
            backward(params, trace, 2 * error / error[8:].size, opt.grads)
            opt.step()
            losses.append(float((error[8:] ** 2).mean()))
            norms.append(opt.grad_norm)
            each_step()
    return Result(params, losses, norms, time.perf_counter() - begin)


def forecast(params: Params, series: Series) -> Array:
    """Each sample from those before it: sample before, plus the difference the network expects."""
    with common.one_blas_thread():
        expected = forward(params, series.differences[:-1, None]).outputs[:, 0]
    ahead: Array = series.values[1:-1] + series.scale * expected
    return ahead


def autoregression(series: Series, order: int = 4) -> Array:
    """The same forecast, by a linear combination of `order` samples and a constant."""
    past = np.lib.stride_tricks.sliding_window_view(series.values[:-1], order)
    past = np.column_stack([past, np.ones(len(past))])
    known = series.learnt - order
    weights, *_ = np.linalg.lstsq(past[:known], series.values[order : series.learnt])
    ahead: Array = past @ weights
    return ahead


def persistence(series: Series) -> Array:
    """The simplest forecast: as the sample before."""
    return series.values[:-1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this demo."""
    options = {
        "steps": (common.whole(1), 150, "steps of each run"),
        "start": (common.positive, 4.5, "size of the first recurrent weights; 1 is usual"),
        "clip-norm": (common.positive, 0.1, "largest norm of the gradient in the second run"),
    }
    common.add_options(parser, "lstm", options)


def plot(
    fig: Any, series: Series, runs: dict[str, Result], forecasts: dict[str, Array], clip: float
) -> None:
    """Draw gradient norms, losses and, beside the recording, the errors of the forecasts."""
    norms, losses, beat = fig.axes
    colours = dict(zip(runs, ("#d94801", "#2171b5"), strict=True))
    for name, run in runs.items():
        norms.semilogy(run.norms, color=colours[name], lw=1, label=name)
        losses.semilogy(run.losses, color=colours[name], lw=1, label=name)
    norms.axhline(clip, color="k", lw=0.8, ls=":", label=f"limit, clip_norm={clip:g}")
    norms.set(xlabel="step", ylabel="norm", title="norm of the gradient, before the clip")
    losses.set(xlabel="step", ylabel="mean squared error, scaled", title="training loss")
    t = np.arange(series.learnt, len(series.values))
    beat.plot(t, series.values[t], color="0.8", lw=3, label="recording")
    for name, ahead in forecasts.items():
        error = ahead[-len(t) :] - series.values[t]
        beat.plot(t, error, color=colours.get(name, "k"), lw=1, label=f"error, {name}")
    beat.set(xlabel="sample", ylabel="in units of the recording")
    beat.set_title("a beat that was not learnt, one sample ahead", fontsize=11)
    for axes in fig.axes:
        axes.legend(frameon=False, fontsize=8)
        common.tidy(axes)
    fig.suptitle("LSTM(128) + Dense(1) on an electrocardiogram, gradients by hand, numadam.Adam")


def main(
    output: str | os.PathLike[str] = "numadam-lstm.png",
    *,
    seed: int = 0,
    steps: int = 150,
    start: float = 4.5,
    clip_norm: float = 0.1,
) -> Result:
    """Train without and with clipping, print the errors of the forecasts, and draw."""
    fig = common.figure(output, 1, 3, (13, 3.8))
    series = load()
    given: dict[str, Any] = {"start": start, "steps": steps, "seed": seed}
    fresh = len(series.values) - series.learnt
    with common.bar(2 * steps) as bar:
        wild = train(series, **given, each_step=bar.update)
        clipped = train(series, **given, clip_norm=clip_norm, each_step=bar.update)
    runs = {"LSTM without clipping": wild, f"LSTM with clip_norm={clip_norm:g}": clipped}
    forecasts = {"linear, of the last 4": autoregression(series)}
    forecasts |= {name: forecast(run.params, series) for name, run in runs.items()}
    print(
        f"two runs of {steps} steps in {wild.seconds:.1f} and {clipped.seconds:.1f} s\n"
        f"norm of the gradient without clipping: median {np.median(wild.norms):.2g}, "
        f"largest {max(wild.norms):.3g}\n"
        f"{series.learnt} samples learnt; the next {fresh}, forecast one ahead, root mean square "
        "error:"
    )
    for name, ahead in {"as the sample before": persistence(series), **forecasts}.items():
        print(f"  {name:26} {series.rmse(ahead):6.2f}")
    plot(fig, series, runs, forecasts, clip_norm)
    common.save(fig, output)
    return clipped

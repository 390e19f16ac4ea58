"""A small network learns handwritten digits: 1797 images, 400 of them only to validate.

Forward and backward are in NumPy, and numadam takes the steps. Packages: the extra ``demo``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import numadam as na
from numadam._version import install_command

# --- images of handwritten digits that come with numadam -----------------------------------------
# Source and licence (CC BY 4.0): the file digits-LICENSE.txt, beside this one.

Array = np.ndarray[Any, Any]


def read_digits() -> tuple[Array, Array]:
    """Images, float32 of shape (1797, 8, 8) from 0 (paper) to 1 (ink), and their labels."""
    with np.load(Path(__file__).with_name("digits.npz")) as arrays:
        return arrays["images"].astype(np.float32) / 16, arrays["labels"].astype(np.intp)


# --- a network of two layers for handwritten digits ----------------------------------------------

Params = dict[str, Array]


class Digits(NamedTuple):
    """Images, float32 of shape (n, 64) in [0, 1], and labels: to train on, and to validate."""

    x: Array
    y: Array
    x_val: Array
    y_val: Array


@dataclass(frozen=True)
class Training:
    """Settings of a training; `None` switches one off."""

    hidden: int = 64
    epochs: int = 20
    batch: int = 64
    lr: float = 1e-2
    l2: float = 0.0
    bounds: tuple[float, float] | None = None
    seed: int = 0
    stop_accuracy: float | None = None


class Epoch(NamedTuple):
    """Results of an epoch: the mean training loss of its batches, and the validation."""

    number: int
    loss: float
    val_loss: float
    accuracy: float


class Result(NamedTuple):
    """A trained network, how it got there and why it stopped."""

    params: Params
    batch_losses: list[float]
    epochs: list[Epoch]
    seconds: float
    stopped: str


def load(seed: int = 0) -> Digits:
    """Read the digits, shuffle them and set 400 of them apart."""
    images, labels = read_digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    x, y = images[order].reshape(len(labels), -1), labels[order]
    return Digits(x[400:], y[400:], x[:400], y[:400])


# --- the network: all its mathematics -----------------------------------------------------------


def init(rng: np.random.Generator, sizes: tuple[int, int, int]) -> Params:
    """Random weights (He et al. 2015) and zero biases."""
    inputs, hidden, classes = sizes
    w1 = rng.standard_normal((inputs, hidden), np.float32) * np.float32(np.sqrt(2 / inputs))
    w2 = rng.standard_normal((hidden, classes), np.float32) * np.float32(np.sqrt(2 / hidden))
    return {"w1": w1, "b1": np.zeros(hidden, "f4"), "w2": w2, "b2": np.zeros(classes, "f4")}


def forward(params: Params, x: Array) -> tuple[Array, Array]:
    """Activations of the hidden layer (ReLU), and the logarithms of the class probabilities."""
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    logits = hidden @ params["w2"] + params["b2"]
    logits -= logits.max(axis=1, keepdims=True)
    return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def cross_entropy(log_p: Array, y: Array) -> tuple[float, Array]:
    """Mean negative log-likelihood of the labels, and its gradient by the logits."""
    rows = np.arange(len(y))
    slope = np.exp(log_p)
    slope[rows, y] -= 1
    return -float(log_p[rows, y].mean()), slope / len(y)


def backward(params: Params, x: Array, y: Array, grads: Params) -> float:
    """Write the gradients of the loss into `grads`; return the loss."""
    hidden, log_p = forward(params, x)
    value, d_logits = cross_entropy(log_p, y)
    d_hidden = (d_logits @ params["w2"].T) * (hidden > 0)
    np.matmul(hidden.T, d_logits, out=grads["w2"])
    np.matmul(x.T, d_hidden, out=grads["w1"])
    np.sum(d_logits, axis=0, out=grads["b2"])
    np.sum(d_hidden, axis=0, out=grads["b1"])
    return value


def validate(params: Params, data: Digits) -> tuple[float, float]:
    """Loss, and the share of correct answers, on the digits set apart."""
    _, log_p = forward(params, data.x_val)
    value, _ = cross_entropy(log_p, data.y_val)
    return value, float(np.mean(log_p.argmax(axis=1) == data.y_val))


# --- the training -------------------------------------------------------------------------------


def steps_at_most(data: Digits, how: Training) -> int:
    """Steps of a training that reaches no goal before its end."""
    return how.epochs * -(-len(data.y) // how.batch)  # batches cover all digits once


def train(
    data: Digits,
    how: Training = Training(),
    *,
    each_batch: Callable[[], object] = lambda: None,
    each_epoch: Callable[[Epoch], object] = lambda epoch: None,
) -> Result:
    """Train a network on `data`; every update is one ``opt.step()``.

    Parameters
    ----------
    data : Digits
    how : Training
        Sizes, options of the optimiser and where to stop. The learning rate falls from
        `lr` to 0 along a cosine; `l2` is added to the gradient as ``l2 * p``.
    each_batch, each_epoch : callable
        Called after each step, and with the `Epoch` after each epoch: to show progress.
    """
    rng = np.random.default_rng(how.seed)
    params = init(rng, (data.x.shape[1], how.hidden, 10))
    total = steps_at_most(data, how)
    schedule = na.schedules.Cosine(how.lr, steps=total)
    options: Any = {"lr": schedule, "weight_decay": how.l2, "bounds": how.bounds}
    na.Adam(copy.deepcopy(params), **options).step(params)  # compiles what is timed below
    opt = na.Adam(params, **options)
    losses: list[float] = []
    history: list[Epoch] = []
    start, stopped = time.perf_counter(), ""
    with one_blas_thread():
        while not stopped:
            order = rng.permutation(len(data.y))
            batches = np.array_split(order, -(-len(order) // how.batch))
            for rows in batches:
                losses.append(backward(params, data.x[rows], data.y[rows], opt.grads))
                opt.step()
                each_batch()
            loss = float(np.mean(losses[-len(batches) :]))
            history.append(Epoch(len(history) + 1, loss, *validate(params, data)))
            each_epoch(history[-1])
            if how.stop_accuracy is not None and history[-1].accuracy >= how.stop_accuracy:
                stopped = f"validation accuracy reached {how.stop_accuracy:g}"
            elif opt.t == total:
                stopped = f"{total} steps"
    return Result(params, losses, history, time.perf_counter() - start, stopped)


def nearest_mean(data: Digits) -> float:
    """Validation accuracy without training: each digit is the one whose mean image is nearest."""
    means = np.stack([data.x[data.y == digit].mean(axis=0) for digit in range(10)])
    distances = (means**2).sum(axis=1) - 2 * data.x_val @ means.T
    return float(np.mean(distances.argmin(axis=1) == data.y_val))


# --- the demo -------------------------------------------------------------------------------------


class MissingExtra(ImportError):
    """A package of the extra ``demo`` is not installed."""

    def __init__(self, package: str | None) -> None:
        super().__init__(
            f"The demo needs {package}, which is not installed: {install_command('demo')}"
        )


def whole(least: int) -> Callable[[str], int]:
    """A type of argparse: whole numbers from `least` on."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if int(text) >= least:
                return int(text)
        expected = f"a whole number of at least {least}"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")

    return read


def positive(text: str) -> float:
    """A type of argparse: finite numbers above 0."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demo: by name type, default, help."""
    options: dict[str, tuple[Any, Any, str]] = {
        "output": (str, "numadam-mlp.png", "file of the picture"),
        "seed": (whole(0), 0, "random seed"),
        "epochs": (whole(1), 20, "passes over the training data"),
        "hidden": (whole(1), 64, "neurons of the hidden layer"),
        "l2": (positive, 0.0, "L2 regularisation"),
        "stop-accuracy": (positive, None, "stop at this validation accuracy"),
    }
    for name, (read, default, text) in options.items():
        kind = "PNG" if read is str else "X" if read is positive else "N"
        usual = "off" if read is positive and not default else "%(default)s"
        text = f"{text} (default: {usual})"
        parser.add_argument(f"--{name}", type=read, default=default, metavar=kind, help=text)
    text, names = "hold all parameters in [MIN, MAX] (default: off)", ("MIN", "MAX")
    parser.add_argument("--bounds", type=float, nargs=2, metavar=names, help=text)


def figure(output: str | os.PathLike[str]) -> Any:
    """An empty figure of two panels, drawn without a screen, for the file `output`.

    Called before the work begins: what cannot be drawn or written is told then.
    """
    path = Path(output)
    if path.suffix != ".png":
        raise ValueError(f"--output: expected NAME.png, got {str(path)!r}.")
    if reason := write_error(path):
        raise ValueError(f"--output: cannot write {path}: {reason}.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(error.name) from error
    fig = Figure(figsize=(9, 3.8), layout="constrained")
    fig.subplots(1, 2)
    return fig


def write_error(path: Path) -> str:
    """Why a file cannot be written, or "": asked before minutes of work. It stays as it is."""
    is_new = not path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        return error.strerror or str(error)
    if is_new:
        path.unlink()
    return ""


def one_blas_thread() -> AbstractContextManager[object]:
    """NumPy's products on one thread: for small ones the threads cost more than they save."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra(error.name) from error
    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def plot(fig: Any, result: Result, hidden: int) -> None:
    """Draw losses and accuracy over the epochs into the two panels of `fig`."""
    left, right = fig.axes
    epochs = [epoch.number for epoch in result.epochs]
    steps = np.arange(1, len(result.batch_losses) + 1) * (len(epochs) / len(result.batch_losses))
    val_losses = [epoch.val_loss for epoch in result.epochs]
    left.plot(steps, result.batch_losses, color="#9ecae1", lw=0.8, label="training, each batch")
    # the mean over an epoch belongs to its middle
    middles, losses = np.array(epochs) - 0.5, [epoch.loss for epoch in result.epochs]
    left.plot(middles, losses, "o-", color="#2171b5", ms=4, label="training, mean of an epoch")
    left.plot(epochs, val_losses, "s-", color="#d94801", ms=4, label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy", yscale="log", title="Loss")
    left.legend(frameon=False)
    accuracies = [100 * epoch.accuracy for epoch in result.epochs]
    right.plot(epochs, accuracies, "s-", color="#d94801", ms=4)
    right.set_title(f"Validation accuracy, at the end {accuracies[-1]:.1f} %")
    right.set(xlabel="epoch", ylabel="correct (%)", ylim=(None, 100))
    for axes in fig.axes:
        axes.grid(alpha=0.25, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, len(epochs) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    fig.suptitle(f"1797 digits, a 64-{hidden}-10 network, NumPy gradients, numadam.Adam")


def main(
    output: str | os.PathLike[str] = "numadam-mlp.png",
    *,
    bounds: list[float] | tuple[float, float] | None = None,
    **options: Any,
) -> Result:
    """Train with a progress bar, print the results of each epoch, and draw the curves.

    `options` are those of `Training`.
    """
    from tqdm import tqdm

    how = Training(bounds=_box(bounds), **options)
    if (goal := how.stop_accuracy) is not None and goal > 1:
        raise ValueError(f"--stop-accuracy: expected a share of 1, as 0.93, got {goal:g}.")
    fig, data = figure(output), load()
    print(
        f"{len(data.y)} digits to train on, {len(data.y_val)} to validate; the first run on a "
        "machine compiles the loops and keeps them."
    )
    hidden = True if sys.stderr is None else None  # None: where it is no terminal
    total = steps_at_most(data, how)
    with tqdm(total=total, unit="step", leave=False, dynamic_ncols=True, disable=hidden) as bar:

        def tell(epoch: Epoch) -> None:
            bar.write(
                f"epoch {epoch.number:2d}  training loss {epoch.loss:.3f}  validation loss "
                f"{epoch.val_loss:.3f}  accuracy {epoch.accuracy:.3f}"
            )

        result = train(data, how, each_batch=bar.update, each_epoch=tell)
    steps = f"{len(result.batch_losses)} steps"
    why = "" if result.stopped == steps else f", stopped: {result.stopped}"
    print(
        f"{steps} in {result.seconds:.2f} s{why}\n"
        f"without training, by the nearest mean image: accuracy {nearest_mean(data):.3f}\n"
        f"the network: validation accuracy {result.epochs[-1].accuracy:.3f}"
    )
    plot(fig, result, how.hidden)
    fig.savefig(output, dpi=150)
    print(f"picture: {Path(output).resolve()}")
    return result


def _box(bounds: Any) -> tuple[float, float] | None:
    if bounds is None:
        return None
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"--bounds: expected finite MIN < MAX, got {low:g} and {high:g}.")
    return low, high

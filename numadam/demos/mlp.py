"""A small network learns handwritten digits: 1797 images, 400 of them only to validate.

The mathematics and the training are in `numadam.demos.network`.
"""

from __future__ import annotations

import argparse
import math
import os
from typing import Any

import numpy as np

from numadam.demos import common
from numadam.demos.network import (
    LOSSES,
    Epoch,
    Result,
    Training,
    load,
    nearest_mean,
    steps_at_most,
    train,
)

EXAMPLES = """\
examples:
  python -m numadam demo mlp                    20 epochs, a second or two
  python -m numadam demo mlp --hidden 128 --loss mse
      128 hidden neurons, mean squared error
  python -m numadam demo mlp --l2 1e-4          weights are pulled towards 0
  python -m numadam demo mlp --bounds -0.2 0.2  parameters held in a box
  python -m numadam demo mlp --epochs 50 --stop-accuracy 0.96
      stop when good enough
  python -m numadam demo mlp --max-steps 100    stop after so many steps
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this demo."""
    whole, number = common.whole(1), common.positive
    options = {
        "epochs": (whole, 20, "passes over the training data"),
        "hidden": (whole, 64, "neurons of the hidden layer"),
        "loss": (LOSSES, "cross-entropy", "loss function"),
        "l2": (number, 0.0, "L2 regularisation"),
        "validation": (whole, 400, "digits to validate with; the others train"),
        "stop-accuracy": (number, None, "stop at this validation accuracy"),
        "stop-loss": (number, None, "stop at this validation loss"),
        "max-steps": (whole, None, "take at most so many steps"),
    }
    common.add_options(parser, "mlp", options)
    text, names = "hold all parameters in [MIN, MAX] (default: off)", ("MIN", "MAX")
    parser.add_argument("--bounds", type=float, nargs=2, metavar=names, help=text)


def plot(fig: Any, result: Result, how: Training) -> None:
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
    left.set(xlabel="epoch", ylabel=how.loss, yscale="log", title="Loss")
    left.legend(frameon=False)
    accuracies = [100 * epoch.accuracy for epoch in result.epochs]
    right.plot(epochs, accuracies, "s-", color="#d94801", ms=4)
    right.set_title(f"Validation accuracy, at the end {accuracies[-1]:.1f} %")
    right.set(xlabel="epoch", ylabel="correct (%)", ylim=(None, 100))
    for axes in fig.axes:
        common.tidy(axes)
        axes.set_xlim(0, len(epochs) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    fig.suptitle(f"1797 digits, a 64-{how.hidden}-10 network, NumPy gradients, numadam.Adam")


def main(
    output: str | os.PathLike[str] = "numadam-mlp.png",
    *,
    validation: int = 400,
    bounds: list[float] | tuple[float, float] | None = None,
    **options: Any,
) -> Result:
    """Train with a progress bar, print the results of each epoch, and draw the curves.

    `options` are those of `Training`.
    """
    how = Training(bounds=_box(bounds), **options)
    if (goal := how.stop_accuracy) is not None and goal > 1:
        raise ValueError(f"--stop-accuracy: expected a share of 1, as 0.93, got {goal:g}.")
    fig, data = common.figure(output, 1, 2, (9, 3.8)), load(validation=validation)
    print(
        f"{len(data.y)} digits to train on, {len(data.y_val)} to validate; the first run on a "
        "machine compiles the loops and keeps them."
    )
    with common.bar(steps_at_most(data, how)) as bar:

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
    plot(fig, result, how)
    common.save(fig, output)
    return result


def _box(bounds: Any) -> tuple[float, float] | None:
    if bounds is None:
        return None
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"--bounds: expected finite MIN < MAX, got {low:g} and {high:g}.")
    return low, high

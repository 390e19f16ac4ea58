"""Parts of all demos: the option --output, the progress bar, the picture."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from numadam.demos import MissingExtra


def whole(least: int) -> Callable[[str], int]:
    """A type of argparse: whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, got {text!r}"
            )
        return number

    return read


def positive(text: str) -> float:
    """A type of argparse: finite numbers above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def add_options(
    parser: argparse.ArgumentParser, name: str, options: Mapping[str, tuple[Any, Any, str]]
) -> None:
    """Add the options of every demo, and those of one: by name type or choices, default, help."""
    shared = {
        "output": (str, f"numadam-{name}.png", "file of the picture"),
        "seed": (whole(0), 0, "random seed"),
    }
    for key, (read, default, text) in {**shared, **options}.items():
        given: dict[str, Any] = {"type": read, "metavar": "X" if read is positive else "N"}
        if read is str:
            given["metavar"] = "PNG"
        elif not callable(read):
            given = {"choices": read}
        usual = "off" if default is None or (read is positive and not default) else "%(default)s"
        help_text = f"{text} (default: {usual})"
        parser.add_argument(f"--{key}", default=default, help=help_text, **given)


def figure(
    output: str | os.PathLike[str], rows: int, columns: int, size: tuple[float, float]
) -> Any:
    """An empty figure with panels, drawn without a screen, for the file `output`.

    Called before the work begins: what cannot be drawn or written is told then.
    """
    path = Path(output)
    if path.suffix != ".png" or not path.resolve().parent.is_dir():
        raise ValueError(f"--output: expected NAME.png in a folder that exists, got {str(path)!r}.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(error.name) from error
    fig = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(fig)
    fig.subplots(rows, columns)
    return fig


def tidy(axes: Any) -> None:
    """Remove two of the four spines, and add a faint grid."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def image(axes: Any, pixels: Any, title: str, **how: Any) -> Any:
    """Show an image without axes."""
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    return axes.imshow(pixels, **{"cmap": "gray", "vmin": 0, "vmax": 1, **how})


def save(fig: Any, output: str | os.PathLike[str]) -> None:
    """Write the picture and print its path."""
    fig.savefig(output, dpi=150)
    print(f"picture: {Path(output).resolve()}")


def bar(total: int, unit: str = "step") -> Any:
    """A bar of tqdm, shown on a terminal only."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, leave=False, dynamic_ncols=True, disable=None)


def compiled(make: Callable[[Any], Any], params: Mapping[str, Any]) -> Any:
    """``make(params)``, when its step is compiled: the time of a training is without that.

    An optimiser of copies takes the first step, with gradients of 0.
    """
    other = make({key: value.copy() for key, value in params.items()})
    for gradient in other.grads.values():
        gradient[...] = 0
    other.step()
    return make(params)


def one_blas_thread() -> AbstractContextManager[object]:
    """NumPy's products on one thread: for small ones the threads cost more than they save."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra(error.name) from error
    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def pywt_data() -> Any:
    """The module `pywt.data`: a photograph and an electrocardiogram."""
    try:
        import pywt.data
    except ImportError as error:
        raise MissingExtra("PyWavelets") from error
    return pywt.data

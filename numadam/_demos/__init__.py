"""Demonstrations that ``python -m numadam demo`` runs; what they need is the extra ``demo``.

A demo is a module of its name, with ``add_arguments(parser)`` for its own options, ``EXAMPLES``
for the end of its help, and ``main(**options)``. Here stands what all of them share: their names,
options, the progress bar, the picture.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from numadam._version import install_command

#: Name of each module, and what the help says of it.
DEMOS = {
    "mlp": "a small network learns handwritten digits",
    "decays": "65,536 exponential decays fitted at once, by a compiled objective",
}


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


def add_options(
    parser: argparse.ArgumentParser, name: str, options: Mapping[str, tuple[Any, Any, str]]
) -> None:
    """Add the options of every demo, and those of one: by name type, default, help."""
    shared = {
        "output": (str, f"numadam-{name}.png", "file of the picture"),
        "seed": (whole(0), 0, "random seed"),
    }
    for key, (read, default, text) in {**shared, **options}.items():
        given: dict[str, Any] = {"type": read, "metavar": "X" if read is positive else "N"}
        if read is str:
            given["metavar"] = "PNG"
        usual = "off" if default is None or (read is positive and not default) else "%(default)s"
        help_text = f"{text} (default: {usual})"
        parser.add_argument(f"--{key}", default=default, help=help_text, **given)


def figure(output: str | os.PathLike[str], columns: int, size: tuple[float, float]) -> Any:
    """An empty figure with a row of panels, drawn without a screen, for the file `output`.

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
    fig = Figure(figsize=size, layout="constrained")
    fig.subplots(1, columns)
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


def tidy(axes: Any) -> None:
    """Remove two of the four spines, and add a faint grid."""
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)


def save(fig: Any, output: str | os.PathLike[str]) -> None:
    """Write the picture and print its path."""
    fig.savefig(output, dpi=150)
    print(f"picture: {Path(output).resolve()}")


def bar(total: int) -> Any:
    """A bar of tqdm, shown on a terminal only."""
    from tqdm import tqdm

    hidden = True if sys.stderr is None else None  # None: where it is no terminal
    return tqdm(total=total, unit="step", leave=False, dynamic_ncols=True, disable=hidden)


def one_blas_thread() -> AbstractContextManager[object]:
    """NumPy's products on one thread: for small ones the threads cost more than they save."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra(error.name) from error
    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits

"""``python -m numadam bench``: every figure is a ratio of two sides that took turns in one run."""

from numadam.bench.command import add_arguments, run

__all__ = ["add_arguments", "run"]

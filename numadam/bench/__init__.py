"""The benchmarks: every figure is a ratio of two sides interleaved in one run."""

from numadam.bench.cli import add_arguments, run

__all__ = ["add_arguments", "run"]

"""minimize and minimize_many against NumPy and JAX, and what an iteration costs in Python."""

from .common import Tracked, large


class Ratio(Tracked):
    """Ratio of times, ours / theirs."""

    params = [
        "rosen-numpy",
        "rosen-jax",
        "rosen-jax-bare",
        "many-jax",
        "many-stops-jax",
        *large("many-cost"),
    ]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"


class Overhead(Tracked):
    params = ["overhead-python"]

    def track_seconds(self, name):
        return self.value()

    track_seconds.unit = "seconds"

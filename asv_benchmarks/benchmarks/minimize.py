"""minimize and minimize_many against NumPy and JAX, their overhead, and their first call."""

from .common import Tracked, large


class Ratio(Tracked):
    """Ratio of times, ours / theirs."""

    params = [
        "rosen-numpy",
        "rosen-jax",
        "rosen-jax-bare",
        "rosen-jax-1000",
        "overhead-python",
        "short-run-5",
        "many-jax",
        "many-stops-jax",
        *large("many-cost"),
        "calls-callback",
    ]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"


class FirstCall(Tracked):
    params = ["many-first"]

    def track_seconds(self, name):
        return self.value()

    track_seconds.unit = "seconds"

"""A step against its own memory traffic, and beside the caller's matrix products."""

from .common import Tracked, large


class Roofline(Tracked):
    params = [
        "roofline-100k",
        "roofline-500k",
        "roofline-1M",
        "roofline-5M",
        "roofline-10M",
        "roofline-10M-float64",
        *large("roofline-50M"),
    ]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"


class WithArraysOfTheCall(Tracked):
    params = ["step-out-5", "step-params-5"]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"


class BesideMatmuls(Tracked):
    params = ["matmul-50k", "matmul-1M", "matmul-4M"]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"

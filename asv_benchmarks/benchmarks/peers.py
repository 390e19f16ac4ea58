"""A step of one array against other implementations of Adam."""

from .common import Tracked, large


class Peers(Tracked):
    params = [
        "numpy-1000",
        "torch-1000",
        "torch-100k",
        "torch-1M",
        "torch-10M",
        "deepspeed-100k",
        "deepspeed-1M",
        *large("torch-50M"),
    ]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"

"""A step of one array against other implementations of Adam."""

from .common import Tracked, large


class Peers(Tracked):
    params = [
        "numpy-1000",
        "bare-5",
        "bare-like-5",
        "bare-out-5",
        "bare-nopython-5",
        "torch-1000",
        "torch-10k",
        "torch-100k",
        "torch-1M",
        "torch-10M",
        "deepspeed-100k",
        "deepspeed-1M",
        "usual-10k",
        "usual-1M",
        "usual-20M",
        *large("torch-50M"),
    ]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"


class UnderWorkqueue(Tracked):
    """In a process of its own with Numba's layer that is not safe for two threads."""

    params = ["workqueue-1M", "workqueue-10M"]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"

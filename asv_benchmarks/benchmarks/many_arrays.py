"""A step of a thousand small arrays."""

from .common import Tracked


class ManyArrays(Tracked):
    params = ["many-checked", "many-same", "many-grads"]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"

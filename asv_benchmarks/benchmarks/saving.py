"""A checkpoint against writing as many bytes."""

from .common import Tracked, large


class Saving(Tracked):
    params = ["save-1M", *large("save-100M")]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ratio"

"""Making a second optimiser, starting one again, and keeping where one is."""

from .common import Tracked, large


class Making(Tracked):
    params = ["make-5", "reset-5", "set-t-5", "set-state-t-5"]

    def track_seconds(self, name):
        return self.value()

    track_seconds.unit = "seconds"


class Snapshots(Tracked):
    params = ["snapshot-1M", *large("snapshot-50M")]

    def track_ratio(self, name):
        return self.value()

    track_ratio.unit = "ours / numpy.copyto"

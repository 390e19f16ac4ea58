"""Making a second optimiser, and starting one again."""

from .common import Tracked


class Making(Tracked):
    params = ["make-5", "reset-5", "set-t-5", "set-state-t-5"]

    def track_seconds(self, name):
        return self.value()

    track_seconds.unit = "seconds"

"""A file system that fails at the n-th operation of a save."""

import io
import os

from numadam._checkpoint import container

#: Functions of `os` that a save calls, directly or through `pathlib`.
CALLS = ("listdir", "chmod", "fsync", "replace", "open", "close")


class Disk:
    """Counts operations; at number `at` calls `act`, before or after it does what is asked for.

    With `forever` all that follow fail, too, as those of a disk that is gone.
    """

    def __init__(self, act, at, after=False, forever=False):
        self.act, self.at, self.after, self.forever = act, at, after, forever
        self.names = []

    def strikes(self):
        """Whether the operation that was counted last is to fail."""
        count = len(self.names)
        return count == self.at or (self.forever and count > self.at)

    def call(self, name, function, *args, **keywords):
        self.names.append(name)
        strikes = self.strikes()
        if strikes and not self.after:
            self.act(len(self.names))
        result = function(*args, **keywords)
        if strikes and self.after:
            self.act(len(self.names))
        return result

    def install(self, monkeypatch):
        """Put it between the file layer and the system."""
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        monkeypatch.setattr(container, "open", self._open, raising=False)
        return self

    def _wrapped(self, name, function):
        return lambda *args, **keywords: self.call(name, function, *args, **keywords)

    def _open(self, path, mode, buffering, opener):
        return self.call("create", lambda: _File(self, io.FileIO(path, mode, opener=opener)))


class _File(io.RawIOBase):
    """A file whose writes are short: 100 bytes at most."""

    def __init__(self, disk, file):
        self._disk, self._file = disk, file

    def fileno(self):
        return self._file.fileno()

    def seek(self, at):
        return self._disk.call("seek", self._file.seek, at)

    def write(self, content):
        return self._disk.call("write", self._file.write, memoryview(content)[:100])

    def close(self):
        if not self.closed:
            super().close()
            try:
                self._disk.call("close file", self._file.close)
            finally:
                self._file.close()  # the system has closed it, whatever it says

"""Contents for checkpoints, files in memory, and a disk that fails at the n-th operation."""

import io
import json
import math
import os
import zlib

import numpy as np

from numadam._checkpoint import container
from numadam._checkpoint.container import Container

RNG = np.random.default_rng(5)
REALS = ("float64", "float32", "int64", "int32", "int16", "int8")
REALS += ("uint64", "uint32", "uint16", "uint8", "bool")


def some(dtype, *shape):
    """An array of random bits, with NaNs and infinities among them; bools of 0 and 1."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    high = 2 if dtype.kind == "b" else 256
    return np.frombuffer(RNG.integers(0, high, size, np.uint8).tobytes(), dtype).reshape(shape)


def layouts(dtype):
    """Arrays of a dtype in every layout, by name."""
    a = some(dtype, 6, 8)
    return {
        "c": a,
        "f": np.asfortranarray(a),
        "strided": a[::2, 1::3],
        "reversed": a[::-1, ::-1],
        "transposed": some(dtype, 2, 3, 4).transpose(1, 2, 0),
        "unaligned": np.frombuffer(b"x" + a.tobytes(), dtype, offset=1).reshape(a.shape),
        "repeated": np.broadcast_to(some(dtype, 3, 1), (3, 4)),
        "0-d": some(dtype, 1).reshape(()),
        "empty": some(dtype, 0, 3),
        "matrix": a.view(np.matrix),
    }


def small():
    """Content whose file is small, with every kind of entry."""
    arrays = {
        "p/w": some("float32", 3, 2),
        "m/ä": some("complex64", 2),
        "v/w": some("int16", 3),
        "t": np.array(7),
        "flag": np.array([True, False]),
        "none": some("float64", 0, 4),
    }
    return Container("optimizer", {"lr": 1e-3, "beta": [0.9, math.inf]}, arrays)


def image(path, content):
    """Bytes of a file with this content."""
    container.write(path, content)
    return path.read_bytes()


def read_bytes(content, kind="optimizer"):
    """Container of a file in memory."""
    return container.Reader(io.BytesIO(content), len(content), "a.file", kind).content()


def same(a, b):
    """Whether two dicts have the same arrays to the bit, in the same order."""
    return [(k, x.dtype, x.shape, x.tobytes()) for k, x in a.items()] == [
        (k, x.dtype, x.shape, x.tobytes()) for k, x in b.items()
    ]


def sealed(text, data=b""):
    """A file with this header, whose checksum is right if there is a place for it."""
    if isinstance(text, str):
        text = text.encode()
    head = len(text).to_bytes(8, "little") + text
    at = head.find(b'"header_crc32":"') + 16
    if at > 16:
        blank = head[:at] + b"0" * 8 + head[at + 8 :]
        head = blank[:at] + crc32(blank).encode() + blank[at + 8 :]
    return head + data


def crc32(data):
    """A checksum as it stands in a header."""
    return f"{zlib.crc32(data):08x}"


def header_text(tensors, meta="{}", sums=None, data=b"", extra="", version="1"):
    """Text of a header with these tensors, spelled as numadam does, however wrong they are.

    `tensors` are triples: a name as it stands in the JSON, the value as JSON, and the checksum.
    """
    crcs = "".join(f',"crc32:{name}":"{crc}"' for name, _, crc in tensors)
    rest = "".join(f',"{name}":{value}' for name, value, _ in tensors)
    text = (
        f'{{"__metadata__":{{"format":"numadam","version":"{version}","header_crc32":"00000000",'
        f'"kind":"optimizer","meta":{json.dumps(meta)}{crcs}{extra}}}{rest}}}'
    )
    return text + " " * (-(8 + len(text)) % 64)


def entry(dtype, shape, begin, end):
    """Value of a tensor in a header."""
    return json.dumps(
        {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}, separators=(",", ":")
    )


# --- a disk that fails ----------------------------------------------------------------------------

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

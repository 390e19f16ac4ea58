"""Contents of checkpoints: arrays of every dtype and layout."""

import math

import numpy as np

from numadam._checkpoint.container import Container

_RNG = np.random.default_rng(5)
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = [*map(np.dtype, ("f8", "f4", "f2", "c16", "c8", "bool", *_INTEGERS))]


def some(dtype, *shape):
    """An array of random bits, with NaNs and infinities among them; bools of 0 and 1."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    high = 2 if dtype.kind == "b" else 256
    return np.frombuffer(_RNG.integers(0, high, size, np.uint8).tobytes(), dtype).reshape(shape)


def layouts(dtype):
    """Arrays of a dtype in every layout, by name."""
    a = some(dtype, 6, 8)
    return {
        "file": a,  # a name that is an argument of numpy.savez
        "f": np.asfortranarray(a),
        "strided": a[::2, 1::3],
        "reversed": a[::-1, ::-1],
        "transposed": some(dtype, 2, 3, 4).transpose(1, 2, 0),
        "unaligned": np.frombuffer(b"x" + a.tobytes(), dtype, offset=1).reshape(a.shape),
        "repeated": np.broadcast_to(some(dtype, 3, 1), (3, 4)),
        "p/a~1b/ä": some(dtype, 1).reshape(()),
        "empty": some(dtype, 0, 3),
        "matrix": a.view(np.matrix),
    }


def content():
    """Content whose file is small, with every kind of entry."""
    arrays = {
        "p/w": np.arange(6, dtype="f4").reshape(3, 2),
        "m/ä": np.array([1 + 2j, 3]),
        "t": np.array(7),
        "flag": np.array([True, False]),
        "none": np.zeros((0, 4)),
    }
    return Container("optimizer", {"lr": 1e-3, "beta": [0.9, math.inf]}, arrays)


def same(a, b):
    """Whether two dicts have the same arrays to the bit, in the same order."""
    return [(k, x.dtype, x.shape, x.tobytes()) for k, x in a.items()] == [
        (k, x.dtype, x.shape, x.tobytes()) for k, x in b.items()
    ]

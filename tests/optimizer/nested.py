"""Parameters of the tests of the optimiser."""

from __future__ import annotations

import numpy as np


def tree_of(seed, dtype="float64"):
    """A tree with C, F, strided, 0-d and empty leaves."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    return {
        "layers": [(draw(3, 4), draw(4)), (np.asfortranarray(draw(4, 2)), draw(2))],
        "scale": draw(2)[0:1].reshape(()),
        "none": draw(0, 3),
        "every second": draw(10)[::2],
        "backwards": draw(6)[::-1],
    }

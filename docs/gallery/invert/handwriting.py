"""A page of real handwritten digits, for programs that need a picture."""

import numpy as np
from scipy import ndimage

from numadam._demos import mlp


def page():
    """13 x 13 digits, enlarged to 520 x 520 pixels, with more contrast."""
    images, _ = mlp.read_digits()
    chosen = np.random.default_rng(0).permutation(len(images))[: 13 * 13]
    tiles = np.pad(images[chosen], ((0, 0), (1, 1), (1, 1)))
    tiles = tiles.reshape(13, 13, 10, 10).transpose(0, 2, 1, 3)
    large = ndimage.zoom(tiles.reshape(130, 130), 4, order=1)
    return np.asarray(np.clip((large - 0.3) / 0.4, 0, 1), np.float32)

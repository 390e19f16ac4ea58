"""Images of handwritten digits that come with numadam, so that nothing is downloaded.

Source and licence (CC BY 4.0): the file digits-LICENSE.txt, beside this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
#: Images, and pixels along a side of each.
DIGITS, SIDE = 1797, 8


def read() -> tuple[Array, Array]:
    """Images, float32 of shape (1797, 8, 8) from 0 (paper) to 1 (ink), and their labels."""
    with np.load(Path(__file__).with_name("digits.npz")) as arrays:
        return arrays["images"].astype(np.float32) / 16, arrays["labels"].astype(np.intp)

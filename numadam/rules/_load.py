"""`numadam.load`: an optimiser from a file alone."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from numadam._checkpoint.container import about_file, read
from numadam._optimizer.checkpoint import KIND, new_optimizer
from numadam.rules import classes

if TYPE_CHECKING:
    from numadam._optimizer.optimizer import Optimizer


def load(path: str | os.PathLike[Any], *, xp: Any = None) -> Optimizer:
    """Make an optimiser from a file that `Optimizer.save` wrote; it continues with the same bits.

    Parameters
    ----------
    path : str or path-like
        The file, of a CPU or a GPU; of an optimiser with `comm`, that of one rank.
    xp : module, optional
        Library of the new arrays: NumPy, or with ``xp=cupy`` CuPy on the current GPU.

    Returns
    -------
    Optimizer
        Of the class that was saved, with rule, options, state and counters. Its arrays are new:
        ``opt.params``, in dicts, lists and tuples as they were.

    Raises
    ------
    CheckpointError
        If the file is damaged or newer than this numadam; if its class, or a container of its
        parameters, is not one of numadam or Python (then make the optimiser, and call
        ``opt.load(path)``).
    OSError
        If it cannot be read.

    See Also
    --------
    Optimizer.load : load a file into an existing optimiser and its arrays.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import numadam as na
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.AdamW(x, lr=na.schedules.Cosine(0.1, steps=100))
    >>> opt.step(2 * x)
    >>> path = Path(tempfile.mkdtemp()) / "run.npz"
    >>> opt.save(path)
    >>> later = na.load(path)
    >>> later.t, later.lr
    (1, Cosine(start=0.1, steps=100, end=0.0, restart_mult=0))
    >>> later.step(2 * later.params)
    >>> opt.step(2 * x)
    >>> np.array_equal(later.params, x)
    True
    """
    xp = np if xp is None else xp
    if xp is not np and xp is not sys.modules.get("cupy"):
        raise TypeError(f"xp: expected the module numpy or cupy, got {xp!r}.")
    content = read(path, KIND)
    with about_file(path):
        kind = classes().get(content.meta["class"])
        if kind is None:
            raise ValueError(
                f"was saved by {content.meta['class']}, which is not in numadam. Make the "
                "optimiser and call opt.load(path)."
            )
        return new_optimizer(kind, content, xp)

"""Error of a file that cannot be read as a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class CheckpointError(ValueError):
    """A file is no checkpoint that numadam can read, or does not fit what it is loaded into.

    The message names the file and what is wrong with it, and nothing has been changed. A file
    that is absent or cannot be opened raises an `OSError`, as everywhere in Python.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numadam as na
    >>> file = Path(tempfile.mkdtemp()) / "run.safetensors"
    >>> _ = file.write_bytes(b"something else")
    >>> try:
    ...     na.load(file)
    ... except na.CheckpointError as error:
    ...     print(str(error).partition(": ")[2])
    not a checkpoint of numadam, or damaged in its first bytes.
    """


@contextmanager
def about_file(path: Any) -> Iterator[None]:
    """Errors of what a file holds, as `CheckpointError` with its path."""
    try:
        yield
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fsdecode(path)}: {error}") from error
    except (LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(
            f"{os.fsdecode(path)}: holds what numadam does not write ({error!r})."
        ) from error

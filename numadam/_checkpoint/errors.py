"""Error of a file that cannot be read as a checkpoint."""


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

"""The folder of a run by several ranks: a file of each, and an index that names those of one save.

What a file says of the run of one process is in that of each rank: x0, options and numbers of its
own block. So all is compared where it lies.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from numadam._checkpoint import together
from numadam._checkpoint.container import Container
from numadam._checkpoint.index import INDEX, Cut, Index
from numadam._checkpoint.replace import check_writable
from numadam._minimize.checkpoint import Checkpoint
from numadam._minimize.ranks.meetings import Meetings

#: Name of the array that holds what a file of one process has as its JSON.
_META = "meta"


class RankCheckpoint(Checkpoint):
    """The folder that a run is saved to and goes on from.

    Attributes
    ----------
    is_due : bool
        Whether it has to be written at the iterate at hand, as rank 0 has said.
    """

    def __init__(self, path: Any, every: Any, meetings: Meetings) -> None:
        self._meetings, self.is_due = meetings, False
        if path in ("", b""):  # would be the current folder
            raise ValueError("checkpoint: is empty. Give the name of a folder.")
        super().__init__(path, every, "minimize")
        self._exists = (self.path / INDEX).exists()

    def agree(self) -> None:
        """Take the answer of rank 0, whether there is a run. Collective."""
        self._exists = bool(self._meetings.ranks.gather(np.array([self._exists], np.int64))[0, 0])

    @property
    def exists(self) -> bool:
        """Whether there is a run to go on from."""
        return self._exists

    def _check_writable(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            text = "is a file, and several ranks write into a folder: give another name"
            raise OSError(errno.ENOTDIR, text)
        if self._meetings.ranks.rank == 0:
            check_writable(self.path / INDEX if self.path.exists() else self.path)

    def _read(self) -> Container:
        size = self._meetings.ranks.size

        def wanted(index: Index) -> Mapping[str, Cut]:
            if index.ranks != size:
                raise ValueError(
                    f"is the run of {index.ranks} ranks, and here are {size}. Start as many, or "
                    "give another path to begin anew."
                )
            return {name: Cut(None, ()) for name in index.arrays}

        _, arrays = together.load(self.path, self._meetings.ranks, self._kind, wanted)
        meta = json.loads(arrays.pop(_META).tobytes())
        return Container(self._kind, meta, arrays)

    def _put(self, content: Container) -> None:
        text = np.frombuffer(json.dumps(content.meta).encode(), np.uint8)
        part = together.Part(
            kind=content.kind,
            meta={"done": content.meta["at"]["done"]},
            arrays={_META: text, **content.arrays},
            cut_of={},
            cuts={},
        )
        self._exists = True
        try:
            together.save(self.path, self._meetings.ranks, lambda: part)
        except BaseException:
            self._meetings.over = True  # all ranks know
            raise

    def due_here(self, done: int) -> bool:
        """Whether it has to be written by the clock of this rank."""
        return super().due(done)

    def due(self, done: int) -> bool:
        """Whether it has to be written, so many iterations into the run."""
        return self.is_due

    def write_after(self, error: BaseException, *run_state: Any) -> None:
        """Write the run that an exception has ended; a file that fails is a note on it."""
        try:
            self.write(*run_state)
        except Exception as failed:
            error.add_note(f"numadam: {str(self.path)!r} could not be written: {failed}")

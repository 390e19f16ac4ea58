"""The progress bar of a minimisation: tqdm's, in a terminal or a notebook."""

from __future__ import annotations

from typing import Any


class Bar:
    """A bar over iterations, drawn from the first `tell` on; nothing where it is not `shown`.

    A run that fails before its first iteration leaves no bar behind.
    """

    def __init__(self, shown: bool, maxiter: int) -> None:
        self._shown, self._maxiter = shown, maxiter
        self._bar: Any = None

    def tell(self, done: int, text: str) -> None:
        """So many iterations are done; `text` says what there is."""
        if not self._shown:
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._maxiter, unit="it")
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self, whole: bool) -> None:
        """Take the bar down. A run that is `whole` fills it: a notebook shows others in red."""
        if self._bar is None:
            return
        if whole:
            self._bar.total = self._bar.n
        self._bar.close()
        self._shown = False

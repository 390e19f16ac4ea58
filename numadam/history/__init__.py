"""Records of a run: `History`, and what it computes and draws."""

from numadam.history.history import History

__all__ = ["History"]

"""The momentum buffer of rules that have one only where `momentum` is not 0."""

from __future__ import annotations

from typing import Any


def refuse_lone_buffer(m: Any, momentum: float) -> None:
    """Refuse a buffer `m` without momentum, and momentum without one, in an update function."""
    if (m is None) != (momentum == 0.0):
        raise ValueError(
            "m: a momentum buffer is needed where momentum is not 0, and only there; "
            f"got momentum={momentum!r} and m {'missing' if m is None else 'given'}."
        )

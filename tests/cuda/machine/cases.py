"""Cases of which some run always and the others in the sweep, and arrays that begin anywhere."""

from __future__ import annotations

import pytest

sweep = pytest.mark.sweep


def few(names, kept):
    """All of them in the sweep, and these always."""
    return [
        pytest.param(one, id=str(one), marks=() if str(one) in kept else sweep) for one in names
    ]


def cut(machine, values, shift):
    """The values in a room of their own, so many elements from where it begins."""
    room = machine.zeros(len(values) + shift, values.dtype)
    room[shift:] = values
    return room[shift:]

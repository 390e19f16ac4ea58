"""Blocks of memory for state: where they begin, and on which pages they lie."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from numadam._arrays.interop import aligned_zeros

HUGE = 2 << 20


@pytest.mark.parametrize("size", [1, 64, 4097, HUGE - 1, HUGE, 3 * HUGE + 5])
@pytest.mark.parametrize("unit", [64, 4096])
def test_begins_on_a_multiple_and_is_zero(size, unit):
    block = aligned_zeros(size, unit)
    assert block.shape == (size,)
    assert block.ctypes.data % unit == 0
    assert not block.any()


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages on request are Linux's")
def test_large_blocks_ask_for_huge_pages():
    block = aligned_zeros(3 * HUGE + 5)
    assert block.ctypes.data % HUGE == 0
    assert _flags_at(block.ctypes.data) >= {"hg"}  # "hugepage advise flag"


def _flags_at(address):
    """Flags of the memory mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(part, 16) for part in first.split("-"))
            inside = low <= address < high
        elif inside and first == "VmFlags:":
            return set(line.split()[1:])
    return set()

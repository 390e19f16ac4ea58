"""Layouts that compiled code reads, against the objects of this Python."""

import ctypes

import pytest

from numadam._cpu.records import TUPLE_ITEMS


@pytest.mark.parametrize("n", [0, 1, 6])
def test_items_of_a_tuple_lie_where_compiled_code_reads_them(n):
    items = tuple(object() for _ in range(n))
    at = id(items) + TUPLE_ITEMS
    assert list((ctypes.c_int64 * n).from_address(at)) == list(map(id, items))

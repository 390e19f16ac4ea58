"""Parts of arrays as boxes, against NumPy's own indexing."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numadam._checkpoint.folder import Cut, Cuts, common, pieces

SHAPES = [(), (5,), (3, 4), (2, 3, 4), (1, 5, 1), (3, 1, 2, 2), (0, 3)]


@pytest.mark.parametrize("whole", SHAPES, ids=str)
def test_every_range_is_a_few_boxes(whole):
    array = np.arange(prod(whole)).reshape(whole)
    for first in range(array.size + 1):
        for last in range(first, array.size + 1):
            part = np.full(last - first, -1)
            found = pieces(Cut((first,), part.shape, True, whole), whole)
            for piece in found:
                piece.of(part)[...] = array[tuple(map(slice, piece.begin, piece.end))]
            assert part.tolist() == list(range(first, last))
            assert len(found) <= max(1, 2 * len(whole) - 1)


@st.composite
def parts(draw, whole):
    """A cut of a whole array of this shape."""
    if draw(st.booleans()):
        first, last = sorted(draw(st.tuples(*[st.integers(0, prod(whole))] * 2)))
        return Cut((first,), (last - first,), True, whole)
    ends = [sorted(draw(st.tuples(*[st.integers(0, n)] * 2))) for n in whole]
    return Cut(tuple(a for a, _ in ends), tuple(b - a for a, b in ends), False, whole)


def values(cut, whole):
    """What a part holds of an array that counts its elements."""
    array = np.arange(prod(whole)).reshape(whole)
    if cut.flat:
        return array.reshape(-1)[cut.begin[0] : cut.begin[0] + cut.shape[0]]
    return array[tuple(slice(a, a + n) for a, n in zip(cut.begin, cut.shape, strict=True))].copy()


@given(st.data())
def test_what_two_parts_have_in_common_is_copied(data):
    whole = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    one, other = data.draw(parts(whole)), data.draw(parts(whole))
    source, target = values(one, whole), np.full(other.shape, -1)
    for a in pieces(one, whole):
        for b in pieces(other, whole):
            if found := common(a, b):
                b.of(target)[found[1]] = a.of(source)[found[0]]
    expected = values(other, whole)
    assert np.array_equal(target, np.where(np.isin(expected, source), expected, -1))


@given(st.data())
def test_ranks_that_have_something_are_found(data):
    whole = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    cuts = data.draw(st.lists(parts(whole), min_size=1, max_size=5))
    flat = cuts[0].flat
    cuts = [cut for cut in cuts if cut.flat == flat]
    boxes = np.array([cut.begin + cut.shape for cut in cuts], np.int64)
    wanted = data.draw(parts(whole))
    found = Cuts(flat, whole, boxes).meet(pieces(wanted, whole))
    meets = [bool(np.isin(values(cut, whole), values(wanted, whole)).any()) for cut in cuts]
    assert all(there for there, needed in zip(found, meets, strict=True) if needed)
    if not flat:
        assert found.tolist() == meets

"""The cut of parameters among ranks: no MPI."""

import itertools

import numpy as np
import pytest

from numadam._mpi.cut import GRAIN, LONG, Cut, Run, share

SIZES = [[], [0], [1], [63], [64], [65], [1000], [0, 5, 0, 700, 1, 0], [7] * 300, [0, 0, 128, 0]]
RANKS = [(1, 1), (1, 4), (4, 1), (2, 2), (3, 2), (2, 3), (7, 5)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("nodes", "local"), RANKS)
def test_the_pieces_cover_every_element_once(sizes, nodes, local):
    cut = Cut(sizes, nodes, local)
    at = 0
    for j, m in itertools.product(range(local), range(nodes)):
        begin, end = cut.piece(m, j)
        assert begin == at <= end
        assert begin % GRAIN == 0 or begin == cut.end
        at = end
    assert at == cut.end == sum(sizes)


def test_pieces_differ_by_a_few_steps_at_most():
    cut = Cut([20_000_000, 3, 500], 7, 5)
    lengths = [end - begin for begin, end in itertools.starmap(cut.piece, np.ndindex(7, 5))]
    assert max(lengths) == cut.longest()
    assert max(lengths) - min(lengths) <= 3 * GRAIN


def test_one_array_is_cut_like_many():
    one, many = Cut([6400], 2, 2), Cut([64] * 100, 2, 2)
    pairs = list(np.ndindex(2, 2))
    assert [one.piece(*at) for at in pairs] == [many.piece(*at) for at in pairs]


def test_counts_beyond_32_bits():
    cut = Cut([3 * 10**9, 2 * 10**9], 3, 1)
    begin, end = cut.piece(1, 0)
    assert list(cut.runs(begin, end)) == [
        Run(0, begin, 3 * 10**9),
        Run(1, 0, end - 3 * 10**9),
    ]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_runs_of_a_range_are_its_elements(sizes):
    cut = Cut(sizes, 2, 2)
    flat = [(leaf, k) for leaf, size in enumerate(sizes) for k in range(size)]
    ends = sorted({0, 1, 5, 64, 65, cut.end // 2, cut.end})
    for begin, end in itertools.combinations_with_replacement(ends, 2):
        if end <= cut.end:
            runs = list(cut.runs(begin, end))
            found = [(run.leaf, k) for run in runs for k in range(run.low, run.high)]
            assert found == flat[begin:end]
            parts = cut.parts(begin, end)
            assert sum(high - low for low, high in parts) == end - begin
            assert all(parts[run.leaf] == (run.low, run.high) for run in runs)


def test_a_share_of_nothing():
    assert share(0, 0, 0, 3) == (0, 0)
    assert share(128, 128, 2, 3) == (128, 128)


def test_long_parts_of_arrays_are_messages_of_their_own():
    cut = Cut([5, LONG, 2 * LONG, 3, 0, LONG - 1, LONG + 1, 0], 2, 2)
    ends = list(itertools.accumulate([5, LONG, 2 * LONG, 3 + 0 + LONG - 1, LONG + 1], initial=0))
    assert cut.messages(0, cut.end) == list(itertools.pairwise(ends))
    # the rest of a long array may be short
    assert cut.messages(LONG, ends[3] + 1)[0] == (LONG, LONG + 5)
    assert cut.messages(7, 7) == []

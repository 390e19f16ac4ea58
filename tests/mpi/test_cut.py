"""The cut of parameters among ranks: no MPI."""

import itertools

import numpy as np
import pytest

from numadam._mpi.cut import GRAIN, LONG, Cut, Run, share

SIZES = [[], [0], [1], [63], [64], [65], [1000], [0, 5, 0, 700, 1, 0], [7] * 300, [0, 0, 128, 0]]
SIZES += [[5, 4 * LONG, 7, 0, 9 * LONG + 3, 9 * LONG, 130]]
RANKS = [(1, 1), (1, 4), (4, 1), (2, 2), (3, 2), (2, 3), (7, 5)]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: str(sizes[:6]))
@pytest.mark.parametrize(("nodes", "local"), RANKS)
def test_the_pieces_cover_every_element_once(sizes, nodes, local):
    cut = Cut(sizes, nodes, local)
    order = [cut.pieces(m, j) for j, m in itertools.product(range(local), range(nodes))]
    at = 0
    for (first, last), *pieces in zip(cut.groups, *order, strict=True):
        assert at == first
        for begin, end in pieces:
            assert begin == at <= end
            assert (begin - first) % GRAIN == 0 or begin == last
            at = end
        assert at == last
    assert at == cut.end == sum(sizes)


def test_pieces_differ_by_a_few_steps_at_most():
    cut = Cut([20_000_000, 3, 500], 7, 5)
    ranks = [cut.pieces(*rank) for rank in np.ndindex(7, 5)]
    for pieces in zip(*ranks, strict=True):
        lengths = [end - begin for begin, end in pieces]
        assert max(lengths) - min(lengths) <= 3 * GRAIN


def test_one_array_is_cut_like_many():
    one, many = Cut([6400], 2, 2), Cut([64] * 100, 2, 2)
    pairs = list(np.ndindex(2, 2))
    assert [one.pieces(*at) for at in pairs] == [many.pieces(*at) for at in pairs]


def test_counts_beyond_32_bits():
    cut = Cut([3 * 10**9, 10], 3, 1)
    (begin, end), last = cut.pieces(1, 0)
    assert (begin, end) == (10**9 // GRAIN * GRAIN, 2 * 10**9 // GRAIN * GRAIN)
    assert list(cut.runs(begin, end)) == [Run(0, begin, end)]
    assert cut.parts([(begin, end), last]) == [(begin, end), (0, 0)]


@pytest.mark.parametrize("sizes", SIZES[:-1], ids=str)
def test_the_runs_of_a_range_are_its_elements(sizes):
    cut = Cut(sizes, 2, 2)
    flat = [(leaf, k) for leaf, size in enumerate(sizes) for k in range(size)]
    ends = sorted({0, 1, 5, 64, 65, cut.end // 2, cut.end})
    for begin, end in itertools.combinations_with_replacement(ends, 2):
        if end <= cut.end:
            runs = list(cut.runs(begin, end))
            found = [(run.leaf, k) for run in runs for k in range(run.low, run.high)]
            assert found == flat[begin:end]
            parts = cut.parts([(begin, end)])
            assert sum(high - low for low, high in parts) == end - begin
            assert all(parts[run.leaf] == (run.low, run.high) for run in runs)


def test_a_share_of_nothing():
    assert share(0, 0, 0, 3) == (0, 0)
    assert share(128, 128, 2, 3) == (128, 128)


def test_long_arrays_are_groups_of_their_own():
    long = 4 * LONG  # a piece of two nodes and two ranks each
    cut = Cut([5, long, 2 * long, 3, 0, long - 1, long + 1, 0], 2, 2)
    ends = itertools.accumulate([5, long, 2 * long, 3 + 0 + long - 1, long + 1, 0], initial=0)
    assert cut.groups == list(itertools.pairwise(ends))

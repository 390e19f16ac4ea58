"""What ranks share: one array for all ranks of a node, and parameters that are cut into pieces."""

import copy
import ctypes
import errno
import gc
import itertools
import pickle
import sys

import numpy as np
import pytest

import numadam as na
from numadam._mpi import windows
from numadam._mpi.cut import GRAIN, LONG, Cut, Run
from tests.mpi.problems import fails_on


def test_what_one_rank_writes_all_read(comm):
    x = na.mpi.shared_array(comm, (comm.size, 3))
    assert x.dtype == float
    assert x.flags.c_contiguous
    assert not x.any()
    comm.Barrier()
    x[comm.rank] = comm.rank + 1
    comm.Barrier()
    assert np.array_equal(x, np.repeat(np.arange(1.0, comm.size + 1), 3).reshape(-1, 3))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (5, np.float32),
        ((5,), "complex128"),
        ((), np.int8),
        ((0,), bool),
        ((3, 0, 2), float),
        (np.int64(4), "f4"),
        ([2, 3], "c8"),
    ],
)
def test_shapes_and_dtypes_are_those_of_zeros(comm, shape, dtype):
    x, wanted = na.mpi.shared_array(comm, shape, dtype), np.zeros(shape, dtype)
    assert type(x) is np.ndarray
    assert (x.shape, x.dtype, x.tolist()) == (wanted.shape, wanted.dtype, wanted.tolist())
    assert x.ctypes.data % 64 == 0


def test_copies_are_private(comm):
    x = na.mpi.shared_array(comm, 4)
    mine = copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x.copy()
    comm.Barrier()
    x[...] = 1
    comm.Barrier()
    assert not any(one.any() for one in mine)


def test_views_keep_the_memory(comm):
    x = na.mpi.shared_array(comm, 1000)
    part = x[10:20].reshape(2, 5)
    x[:] = 7
    del x
    gc.collect()
    na.mpi.shared_array(comm, 3)  # frees what no rank uses
    assert part.tolist() == [[7.0] * 5] * 2


def test_memory_is_freed_when_all_ranks_have_dropped_it(comm):
    keep = na.mpi.shared_array(comm, 5)
    local = windows.window_of(keep).local
    entries = local.entries
    before = len(entries)
    arrays = [na.mpi.shared_array(comm, 5) for _ in range(3)]
    assert len(entries) == before + 3
    if comm.rank == 0:
        del arrays[0]
    else:
        del arrays[2]
    more = na.mpi.shared_array(comm, 5)
    dropped = 1 if comm.size == 1 else 0
    assert len(entries) == before + 4 - dropped
    del arrays
    more = [more, na.mpi.shared_array(comm, 5)]
    assert len(entries) == before + 2
    del more


def test_a_wrong_argument_on_one_rank_raises_on_all(comm):
    last = comm.rank == comm.size - 1
    with fails_on(comm, -1, TypeError, "dtype: objects cannot be shared"):
        na.mpi.shared_array(comm, 5, object if last else float)
    with fails_on(comm, -1, ValueError, "shape: expected lengths"):
        na.mpi.shared_array(comm, -1 if last else 5)
    with pytest.raises(TypeError, match="comm: expected a communicator of mpi4py"):
        na.mpi.shared_array(5, 5)


def test_the_window_of_an_array(comm):
    x = na.mpi.shared_array(comm, (4, 5))
    assert windows.window_of(x) is windows.window_of(x[1:, 2:].T)
    assert windows.window_of(np.zeros(3)) is None


@pytest.mark.ranks(2)
@pytest.mark.parametrize(("shape", "dtype"), [((5, 4), "f8"), ((4, 5), "f4")])
def test_another_shape_or_dtype_on_one_rank_is_refused(comm, shape, dtype):
    given = (shape, dtype) if comm.rank == 0 else ((4, 5), "f8")
    with pytest.raises(na.mpi.RankError, match="shape or dtype differ between rank 0 and rank 1"):
        na.mpi.shared_array(comm, *given)


def test_communicators_that_come_and_go(comm):
    """Their windows are freed with them; a later one, in the same memory, knows none of them."""
    kept = []
    for k in range(60):
        part = comm.Split(0, comm.rank)
        x = na.mpi.shared_array(part, 100)
        opt = na.mpi.Sharded(na.SGD, x, part, lr=1.0)
        opt.step(np.ones(100))
        assert (x == -comm.size).all()
        if k % (comm.rank + 2) == 0:  # dropped later, and on each rank at another time
            kept.append(x)
        local = windows.window_of(x).local
        del x, opt
        part.Free()
        assert not local.comm
    assert all((x == -comm.size).all() for x in kept)


def test_an_array_outlives_its_communicator(comm):
    part = comm.Dup()
    x = na.mpi.shared_array(part, 100)
    part.Free()
    opt = na.mpi.Sharded(na.SGD, x, comm, lr=1.0)
    opt.step(np.ones(100))
    assert (x == -comm.size).all()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for pages")
def test_no_room_on_one_rank_raises_on_all(comm, monkeypatch):
    def full(name, **_):
        class Library:
            @staticmethod
            def madvise(*_):
                ctypes.set_errno(errno.EFAULT)
                return -1

        return Library

    if comm.rank == comm.size - 1:
        monkeypatch.setattr(windows.ctypes, "CDLL", full)
    with fails_on(comm, -1, MemoryError, "there is no room"):
        na.mpi.shared_array(comm, 100_000)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much is free")
def test_more_than_the_machine_has_is_refused_before_memory_is_taken(comm, monkeypatch):
    """Page by page it would fill the machine, and end processes of others."""

    def taken(local, nbytes):
        raise AssertionError("memory is taken")

    monkeypatch.setattr(windows, "Window", taken)
    with pytest.raises(MemoryError, match=f"there is no room for {8 * 2**45} bytes"):
        na.mpi.shared_array(comm, 2**45)


# --- the cut of parameters among ranks: no MPI ----------------------------------------------------

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


def test_long_arrays_are_groups_of_their_own():
    long = 4 * LONG  # a piece of two nodes and two ranks each
    cut = Cut([5, long, 2 * long, 3, 0, long - 1, long + 1, 0], 2, 2)
    ends = itertools.accumulate([5, long, 2 * long, 3 + 0 + long - 1, long + 1, 0], initial=0)
    assert cut.groups == list(itertools.pairwise(ends))

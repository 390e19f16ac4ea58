"""One array for all ranks of a node."""

import copy
import gc
import pickle

import numpy as np
import pytest
from mpi4py import MPI

import numadam as na
from numadam._mpi import windows


def node_of(comm):
    return comm.Split_type(MPI.COMM_TYPE_SHARED)


def test_what_one_rank_writes_all_read(comm):
    x = na.mpi.shared_array(comm, (comm.size, 3))
    assert x.dtype == float
    assert x.flags.c_contiguous
    assert not x.any()
    comm.Barrier()
    x[comm.rank] = comm.rank + 1
    comm.Barrier()
    assert np.array_equal(x, np.repeat(np.arange(1.0, comm.size + 1), 3).reshape(-1, 3))


@pytest.mark.parametrize("shape", [5, (5,), (), (0,), (3, 0, 2), np.int64(4), [2, 3]], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, "complex128", np.int8, bool])
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
    entries = windows._open[local.py2f()]
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
    error = TypeError if last else na.mpi.RankError
    with pytest.raises(error, match="dtype: objects cannot be shared"):
        na.mpi.shared_array(comm, 5, object if last else float)
    with pytest.raises(ValueError if last else na.mpi.RankError, match="shape: expected lengths"):
        na.mpi.shared_array(comm, -1 if last else 5)


def test_no_communicator(comm):
    with pytest.raises(TypeError, match="comm: expected a communicator of mpi4py"):
        na.mpi.shared_array(5, 5)


def test_the_window_of_an_array(comm):
    x = na.mpi.shared_array(comm, (4, 5))
    assert windows.window_of(x) is windows.window_of(x[1:, 2:].T)
    assert windows.window_of(np.zeros(3)) is None


def test_arrays_of_communicators_that_are_freed(comm):
    """Arrays of a communicator that is gone are not taken for those of another one."""
    for turn in range(20):
        part = comm.Split((comm.rank + turn) % 2, comm.rank)
        array = na.mpi.shared_array(part, 5)
        part.Barrier()
        assert not array.any()
        part.Barrier()
        array[part.rank % 5] = comm.rank
        del array
        part.Free()
    assert na.mpi.shared_array(comm, 3).tolist() == [0.0, 0.0, 0.0]

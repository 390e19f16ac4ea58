"""Pieces of CuPy arrays between real ranks, with the stand-in for CuPy: sums in, parameters out."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from numadam._mpi import choose, transport
from numadam._mpi.cut import Cut
from numadam._mpi.device_buckets import DeviceBuckets
from numadam._mpi.ranks import ranks_of
from tests.cuda import fake_cupy

SIZES = (130, 0, 1, 700, 65)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    monkeypatch.setitem(sys.modules, "cupyx", fake_cupy)


def draw(seed):
    random = np.random.default_rng(seed)
    return [fake_cupy.asarray(random.standard_normal(n).astype(np.float32)) for n in SIZES]


@pytest.mark.parametrize("way", [transport.CudaAware, transport.Staged])
@pytest.mark.parametrize("bucket", [64, 10**6])
def test_sums_are_in_the_order_of_the_ranks(comm, way, bucket):
    ranks = ranks_of(comm)
    cut = Cut(SIZES, ranks.size, 1)
    buckets = DeviceBuckets(way(ranks.comm), cut, ranks.rank, np.dtype("f4"), bucket, 1)
    for step in range(2):
        params = [fake_cupy.zeros(n, np.float32) for n in SIZES]
        sums = buckets.total(draw(10 * step + ranks.rank))
        parts = cut.parts(*cut.piece(ranks.rank, 0))
        for param, part, (low, high) in zip(params, sums, parts, strict=True):
            param[low:high] = part
        buckets.spread(params)
        wanted = draw(10 * step)
        for rank in range(1, ranks.size):
            wanted = [a + b for a, b in zip(wanted, draw(10 * step + rank), strict=True)]
        for param, one in zip(params, wanted, strict=True):
            np.testing.assert_array_equal(param, one)


def test_all_ranks_choose_the_same_way(comm, monkeypatch):
    monkeypatch.setattr(choose, "takes_gpu_memory", lambda comm: comm.rank != comm.size - 1)
    ranks = ranks_of(comm)
    made = choose.device_transport(ranks, "auto", 0)
    assert type(made) is transport.Staged
    assert choose.device_transport(ranks, "auto", 0) is made
    with pytest.raises(ValueError, match=f"that of rank {comm.size - 1} says that it takes no"):
        choose.device_transport(ranks, "mpi", 0)


@pytest.mark.ranks(2)
def test_unlike_wishes_are_refused_on_all_ranks(comm, monkeypatch):
    monkeypatch.setattr(choose, "takes_gpu_memory", lambda comm: True)
    with pytest.raises(ValueError, match="rank 0 got 'mpi', rank 1 'host'"):
        choose.device_transport(ranks_of(comm), "mpi" if comm.rank == 0 else "host", 0)

"""Which way CuPy arrays go between ranks: what is sent, when the host waits, and who decides."""

from __future__ import annotations

import ctypes
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests import extras
from tests.cuda.ranks import on_ranks

extras.require("mpi")

from mpi4py import MPI  # noqa: E402

from numadam._mpi import choose as ch  # noqa: E402
from numadam._mpi import transport as tr  # noqa: E402
from numadam._mpi.cut import Cut  # noqa: E402
from numadam._mpi.device_buckets import DeviceBuckets  # noqa: E402

pytestmark = pytest.mark.mpi


class FakeNccl:
    """NCCL of one rank: copies what a group exchanges with itself at its end."""

    available, NCCL_UINT8 = True, 1

    def __init__(self):
        self.log, self.open, self.sent, self.wanted, self.made = [], False, [], [], []

    def get_version(self):
        return 22703

    def get_unique_id(self):
        self.log.append("id")
        return bytes(range(128))

    def NcclCommunicator(self, size, identity, rank):
        self.made.append((size, identity, rank))
        return self

    def groupStart(self):
        self.open = True

    def send(self, address, count, kind, peer, stream):
        assert (self.open, kind) == (True, 1)
        self.sent.append((address, count))
        self.log.append(("send", peer, count, stream))

    def recv(self, address, count, kind, peer, stream):
        assert (self.open, kind) == (True, 1)
        self.wanted.append((address, count))
        self.log.append(("recv", peer, count, stream))

    def groupEnd(self):
        for (source, count), (target, room) in zip(self.sent, self.wanted, strict=True):
            assert count == room
            ctypes.memmove(target, source, count)
        self.open, self.sent, self.wanted = False, [], []


@pytest.fixture
def nccl(stand_in, monkeypatch):
    fake = FakeNccl()
    monkeypatch.setitem(sys.modules, "cupy.cuda", SimpleNamespace(nccl=fake))
    return fake


@pytest.fixture
def stream(stand_in, monkeypatch):
    """The current stream, with a log of its own."""
    current = type(stand_in.stream)()
    monkeypatch.setattr(stand_in.cuda, "get_current_stream", lambda: current)
    return current


class Logged:
    """A communicator of one rank that notes its calls among what the stream does."""

    def __init__(self, log):
        self._log = log

    def _call(self, name, message, other):
        self._log.append((name, message[0].nbytes, type(message[0]).__module__))
        return getattr(MPI.COMM_SELF, name)(message, other)

    def Isend(self, message, dest):
        return self._call("Isend", message, dest)

    def Irecv(self, message, source):
        return self._call("Irecv", message, source)


DTYPES = ["float32", "float64", "complex128", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_mpi_gets_the_arrays_of_the_gpu_after_a_wait(stand_in, stream, dtype):
    sent, got = stand_in.asarray(np.arange(5).astype(dtype)), stand_in.zeros(5, dtype)
    tr.CudaAware(Logged(stream.log)).begin([(0, sent)], [(0, got)]).wait()
    size = 5 * np.dtype(dtype).itemsize
    calls = [("Irecv", size, "cupy"), ("Isend", size, "cupy")]
    assert stream.log == ["synchronize", *calls]
    np.testing.assert_array_equal(got, sent)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_host_gets_copies_before_mpi_and_the_gpu_after_it(stand_in, stream, dtype):
    sent, got = stand_in.asarray(np.arange(5).astype(dtype)), stand_in.zeros(5, dtype)
    size = 5 * np.dtype(dtype).itemsize
    way = tr.Staged(Logged(stream.log))
    pending = way.begin([(0, sent)], [(0, got)])
    calls = [("Irecv", size, "numpy"), ("Isend", size, "numpy")]
    assert stream.log == ["synchronize", *calls]
    assert not got.any()
    pending.wait()
    assert stream.log[3:] == ["synchronize"]  # the pinned memory is free again
    np.testing.assert_array_equal(got, sent)
    assert len(way._free) == 1
    # two on their way at a time have memory of their own
    other = stand_in.zeros(5, dtype)
    one = way.begin([(0, sent)], [(0, got)])
    two = way.begin([(0, -sent)], [(0, other)])
    one.wait()
    two.wait()
    np.testing.assert_array_equal(other, -sent)
    assert len(way._free) == 2


def test_nccl_takes_its_turn_among_what_the_stream_does(stand_in, stream, nccl):
    sent, got = stand_in.asarray(np.arange(5.0)), stand_in.zeros(5)
    way = tr.Nccl(nccl)
    pending = way.begin([(0, sent)], [(0, got)])
    assert stream.log == ["record"]  # the host waits for nothing
    assert way._stream.log == ["wait", "record"]
    own = way._stream.ptr
    assert nccl.log == [("send", 0, 40, own), ("recv", 0, 40, own)]
    pending.wait()
    assert stream.log == ["record", "wait"]
    np.testing.assert_array_equal(got, sent)


def test_a_group_of_nccl_is_closed_after_an_error(stand_in, stream, nccl, monkeypatch):
    def fails(*args):
        raise RuntimeError("NCCL_ERROR_SYSTEM_ERROR")

    monkeypatch.setattr(nccl, "send", fails)
    with pytest.raises(RuntimeError, match="NCCL"):
        tr.Nccl(nccl).begin([(1, stand_in.zeros(3))], [])
    assert not nccl.open


@pytest.mark.parametrize("kind", [tr.CudaAware, tr.Staged])
def test_empty_pieces_are_not_sent(stand_in, stream, kind):
    kind(Logged(stream.log)).begin([(0, stand_in.zeros(0))], [(0, stand_in.zeros(0))]).wait()
    assert not [entry for entry in stream.log if entry != "synchronize"]


# --- the choice -----------------------------------------------------------------------------------


def table(asked, mpi, nccl, device):
    return np.array([[ch.ASKED.index(asked), *row] for row in zip(mpi, nccl, device, strict=True)])


@pytest.mark.parametrize(
    ("mpi", "nccl", "device", "found"),
    [
        ([1, 1], [1, 1], [7, 8], "mpi"),
        ([1, 0], [1, 1], [7, 8], "nccl"),
        ([-1, -1], [1, 1], [7, 8], "nccl"),
        ([-1, 1], [1, 0], [7, 8], "host"),
        ([0, 0], [1, 1], [7, 7], "host"),  # NCCL refuses ranks that share a GPU
        ([1, 1], [0, 0], [7, 7], "mpi"),
    ],
)
def test_all_ranks_take_the_best_way_that_all_of_them_have(mpi, nccl, device, found):
    assert ch.decide(table("auto", mpi, nccl, device)) == found


@pytest.mark.parametrize(
    ("asked", "row", "found"),
    [
        ("host", ([1, 1], [1, 1], [7, 8]), "host"),
        ("nccl", ([1, 1], [1, 1], [7, 8]), "nccl"),
        ("mpi", ([-1, 1], [0, 0], [7, 7]), "mpi"),  # the user knows it
    ],
)
def test_what_was_asked_for_comes_before_what_was_found(asked, row, found):
    assert ch.decide(table(asked, *row)) == found


@pytest.mark.parametrize(
    ("asked", "row", "text"),
    [
        ("mpi", ([1, 0], [1, 1], [7, 8]), "that of rank 1 says that it takes no memory of a GPU"),
        ("nccl", ([1, 1], [0, 1], [7, 8]), "finds no NCCL on rank 0.*pip install nvidia-nccl"),
        ("nccl", ([1] * 3, [1] * 3, [7, 8, 7]), "ranks 0 and 2 use the same GPU.*local_rank"),
    ],
)
def test_what_cannot_be_is_refused(asked, row, text):
    with pytest.raises(ValueError, match=text):
        ch.decide(table(asked, *row))


def test_unlike_wishes_are_refused():
    rows = table("host", [0, 0], [0, 0], [7, 8])
    rows[1, 0] = ch.ASKED.index("nccl")
    with pytest.raises(ValueError, match="rank 0 got 'host', rank 1 'nccl'"):
        ch.decide(rows)


@pytest.mark.parametrize("asked", ["MPI", None, 3])
def test_other_names_are_refused(asked):
    with pytest.raises(ValueError, match="expected 'auto', 'mpi', 'nccl' or 'host', got"):
        ch.check_asked(asked, "CuPy")


def test_numpy_arrays_go_through_mpi():
    ch.check_asked("mpi", "NumPy")
    with pytest.raises(ValueError, match="'nccl' is for CuPy arrays"):
        ch.check_asked("nccl", "NumPy")


@pytest.mark.parametrize("as_tuple", [False, True])
def test_ranks_of_nccl_get_the_identity_of_the_first(nccl, monkeypatch, as_tuple):
    identity = tuple(range(-64, 64)) if as_tuple else bytes(range(128))

    def get_unique_id():
        nccl.log.append("id")
        return identity

    monkeypatch.setattr(nccl, "get_unique_id", get_unique_id)
    monkeypatch.setattr(ch, "takes_gpu_memory", lambda comm: None)
    ways, _ = on_ranks(3, lambda ranks: ch.device_transport(ranks, "auto", ranks.rank))
    assert {type(way) for way in ways} == {tr.Nccl}
    assert sorted(nccl.made) == [(3, identity, rank) for rank in range(3)]
    assert nccl.log == ["id"]


def test_one_rank_without_mpi_on_the_gpu_sends_all_through_the_host(nccl, monkeypatch):
    found = itertools.count()
    monkeypatch.setattr(ch, "takes_gpu_memory", lambda comm: next(found) != 1)
    ways, _ = on_ranks(3, lambda ranks: ch.device_transport(ranks, "auto", 0))  # one GPU
    assert {type(way) for way in ways} == {tr.Staged}
    assert not nccl.made


# --- what MPI says --------------------------------------------------------------------------------


def comm_that_says(kinds):
    info = SimpleNamespace(get=lambda key: kinds, Free=lambda: None)
    return SimpleNamespace(Get_info=lambda: info)


@pytest.mark.parametrize(
    ("kinds", "takes"),
    [
        ("system,mpi,cuda:device:managed", True),
        ("cuda", True),
        ("mpi,system,cuda:host", False),
        ("mpi,system", False),
        (None, False),
    ],
)
def test_kinds_of_memory_of_mpi_4_1(monkeypatch, kinds, takes):
    monkeypatch.setattr(ch, "_ask", lambda library: False)
    assert ch.takes_gpu_memory(comm_that_says(kinds)) is takes


def library(cuda=None, query=None):
    """An MPI with these functions."""

    def gpu_query(kind, found):
        assert kind.value == 0
        ctypes.cast(found, ctypes.POINTER(ctypes.c_int))[0] = query
        return 0

    functions = {} if cuda is None else {"MPIX_Query_cuda_support": cuda}
    if query is not None:
        functions["MPIX_GPU_query_support"] = gpu_query
    return SimpleNamespace(**functions)


def test_functions_of_open_mpi_and_mpich():
    def ends_the_process():
        raise AssertionError("of an early MPICH 4")

    assert ch._ask(library(cuda=lambda: 1)) is True
    assert ch._ask(library(cuda=lambda: 0)) is False
    assert ch._ask(library(cuda=ends_the_process, query=1)) is True
    assert ch._ask(library(cuda=ends_the_process, query=0)) is False
    assert ch._ask(library()) is None


@pytest.mark.parametrize(
    ("version", "variable", "value", "takes"),
    [
        ("MPI VERSION    : CRAY MPICH version 8.1", "MPICH_GPU_SUPPORT_ENABLED", "1", True),
        ("MPI VERSION    : CRAY MPICH version 8.1", "MPICH_GPU_SUPPORT_ENABLED", "0", False),
        ("MVAPICH2 Version: 2.3.7", "MV2_USE_CUDA", "1", True),
        ("MVAPICH2 Version: 2.3.7", "MV2_USE_CUDA", None, False),
        ("MPICH Version: 3.4", "MPICH_GPU_SUPPORT_ENABLED", "1", None),
    ],
)
def test_variables_of_libraries_without_such_a_function(
    monkeypatch, version, variable, value, takes
):
    monkeypatch.setattr(ch, "_ask", lambda library: None)
    monkeypatch.setattr(MPI, "Get_library_version", lambda: version)
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    assert ch.takes_gpu_memory(comm_that_says(None)) is takes


def test_the_mpi_that_is_here_answers():
    assert ch.takes_gpu_memory(MPI.COMM_SELF) in (True, False, None)


# --- sums of gradients, and parameters back -------------------------------------------------------

SIZES = (130, 0, 1, 700, 65)


def flat(stand_in, seed, dtype):
    random = np.random.default_rng(seed)
    return [stand_in.asarray(random.standard_normal(size).astype(dtype)) for size in SIZES]


@pytest.mark.parametrize("way", ["mpi", "host"])
@pytest.mark.parametrize("bucket", [64, 300, 10**6])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("divisor", [1, 3])
def test_sums_are_those_of_one_process_in_the_order_of_the_ranks(
    stand_in, size, bucket, way, divisor
):
    cut, dtype = Cut(SIZES, size, 1), np.dtype("float32")
    made = {"mpi": tr.CudaAware, "host": tr.Staged}[way]

    def work(ranks):
        buckets = DeviceBuckets(made(ranks.comm), cut, ranks.rank, dtype, bucket, divisor)
        params = [stand_in.zeros(n, dtype) for n in SIZES]
        found = []
        for step in range(2):
            sums = buckets.total(flat(stand_in, 10 * step + ranks.rank, dtype))
            parts = cut.parts(*cut.piece(ranks.rank, 0))
            for param, part, (low, high) in zip(params, sums, parts, strict=True):
                assert part.size == high - low
                param[low:high] = part
            buckets.spread(params)
            found.append([np.array(param) for param in params])
        return found

    ranks, meeting = on_ranks(size, work)
    for step in range(2):
        each = [flat(stand_in, 10 * step + rank, dtype) for rank in range(size)]
        for k in range(len(SIZES)):
            wanted = each[0][k]
            for one in each[1:]:
                wanted = wanted + one[k]
            wanted = wanted / np.float32(divisor)
            for rank in ranks:
                np.testing.assert_array_equal(rank[step][k], wanted)
    assert not any(meeting.letters.values())


def test_a_rank_passes_on_twice_its_share(stand_in):
    """2 (N-1)/N of the bytes of the parameters, which no exchange can undercut."""
    size, dtype, logs = 4, np.dtype("float32"), {}
    cut = Cut([64 * 100], size, 1)

    def work(ranks):
        buckets = DeviceBuckets(tr.CudaAware(ranks.comm), cut, ranks.rank, dtype, 640, 1)
        arrays = [stand_in.zeros(6400, dtype)]
        buckets.total(arrays)
        buckets.spread(arrays)
        logs[ranks.rank] = ranks.comm.log

    on_ranks(size, work)
    for log in logs.values():
        assert sum(entry[2] for entry in log if entry[0] == "Isend") == 2 * 3 / 4 * 6400 * 4


def test_half_precision_is_added_up_in_float32(stand_in):
    cut, ones = Cut([64], 3, 1), [2048.0, 1.0, 1.0]  # in float16 2048 + 1 is 2048

    def work(ranks):
        way = tr.CudaAware(ranks.comm)
        buckets = DeviceBuckets(way, cut, ranks.rank, np.dtype("f2"), 64, 1)
        sums = buckets.total([stand_in.full(64, ones[ranks.rank], np.float16)])
        return np.array(sums[0])

    ranks, _ = on_ranks(3, work)
    assert ranks[0].dtype == np.float16
    np.testing.assert_array_equal(np.concatenate(ranks), np.full(64, 2050.0))

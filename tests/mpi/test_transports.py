"""Which way CuPy arrays go between ranks: who decides, and what MPI says of a GPU's memory."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from numadam._mpi import transport
from numadam._mpi.ranks import ranks_of

UNKNOWN = -1
#: Names of the functions that say it.
OPEN_MPI, MPICH = "MPIX_Query_cuda_support", "MPIX_GPU_query_support"


def table(asked, mpi):
    return np.array([[transport.ASKED.index(asked), takes] for takes in mpi])


@pytest.mark.parametrize(
    ("asked", "mpi", "name"),
    [
        ("auto", [1, 1], "mpi"),
        ("auto", [1, 0], "host"),
        ("auto", [UNKNOWN, 1], "host"),
        ("host", [1, 1], "host"),
        ("mpi", [UNKNOWN, 1], "mpi"),  # the user knows it
    ],
)
def test_all_ranks_take_the_best_way_that_all_of_them_have(asked, mpi, name):
    assert transport.decide(table(asked, mpi)) == name


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="that of rank 1 says that it takes no memory of a GPU"):
        transport.decide(table("mpi", [1, 0]))


@pytest.mark.parametrize(
    ("asked", "home", "text"),
    [
        ("MPI", "CuPy", "expected 'auto', 'mpi' or 'host', got 'MPI'"),
        ("nccl", "CuPy", "expected 'auto', 'mpi' or 'host', got 'nccl'"),
        (None, "NumPy", "expected 'auto', 'mpi' or 'host', got None"),
        ("host", "NumPy", "'host' is for CuPy arrays; NumPy's go through MPI"),
    ],
)
def test_other_names_are_refused(asked, home, text):
    transport.check_asked("mpi", home)
    with pytest.raises(ValueError, match=text):
        transport.check_asked(asked, home)


def test_all_ranks_choose_the_same_way(comm, monkeypatch):
    monkeypatch.setattr(transport, "takes_gpu_memory", lambda comm: comm.rank != comm.size - 1)
    ranks = ranks_of(comm)
    assert transport.transport_of(ranks, "auto", "CuPy") is transport.Staged
    assert transport.transport_of(ranks, "auto", "NumPy") is transport.Direct
    with pytest.raises(ValueError, match=f"that of rank {comm.size - 1} says that it takes no"):
        transport.transport_of(ranks, "mpi", "CuPy")
    monkeypatch.setattr(transport, "takes_gpu_memory", lambda comm: True)
    assert transport.transport_of(ranks, "auto", "CuPy") is transport.CudaAware


@pytest.mark.ranks(2)
def test_unlike_wishes_are_refused_on_all_ranks(comm, monkeypatch):
    monkeypatch.setattr(transport, "takes_gpu_memory", lambda comm: True)
    with pytest.raises(ValueError, match="rank 0 got 'mpi', rank 1 'host'"):
        transport.transport_of(ranks_of(comm), "host" if comm.rank else "mpi", "CuPy")


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
    monkeypatch.setattr(transport, "_ask", lambda library: False)
    assert transport.takes_gpu_memory(comm_that_says(kinds)) is takes


def gpu_query(answer):
    """MPICH's function."""

    def query(kind, found):
        assert kind.value == 0
        ctypes.cast(found, ctypes.POINTER(ctypes.c_int))[0] = answer
        return 0

    return query


def ends_the_process():
    raise AssertionError("of an early MPICH 4")


@pytest.mark.parametrize(
    ("functions", "takes"),
    [
        ({OPEN_MPI: lambda: 1}, True),
        ({OPEN_MPI: lambda: 0}, False),
        ({OPEN_MPI: ends_the_process, MPICH: gpu_query(1)}, True),
        ({OPEN_MPI: ends_the_process, MPICH: gpu_query(0)}, False),
        ({}, None),
    ],
)
def test_functions_of_open_mpi_and_mpich(functions, takes):
    assert transport._ask(SimpleNamespace(**functions)) is takes


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
    monkeypatch.setattr(transport, "_ask", lambda library: None)
    monkeypatch.setattr(MPI, "Get_library_version", lambda: version)
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    assert transport.takes_gpu_memory(comm_that_says(None)) is takes


def test_the_mpi_that_is_here_answers():
    assert transport.takes_gpu_memory(MPI.COMM_SELF) in (True, False, None)

"""CuPy arrays on ranks, without a GPU: which way they go, what MPI says of it, sums of totals."""

from __future__ import annotations

import ctypes
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from numadam._cuda.reductions import add_ranks
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
    if comm.size > 1:
        with pytest.raises(ValueError, match="rank 0 got 'mpi', rank 1 'host'"):
            transport.transport_of(ranks, "host" if comm.rank else "mpi", "CuPy")


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
    ("version", "setting", "takes"),
    [
        ("MPI VERSION    : CRAY MPICH version 8.1", {"MPICH_GPU_SUPPORT_ENABLED": "1"}, True),
        ("MPI VERSION    : CRAY MPICH version 8.1", {"MPICH_GPU_SUPPORT_ENABLED": "0"}, False),
        ("MVAPICH2 Version: 2.3.7", {"MV2_USE_CUDA": "1"}, True),
        ("MVAPICH2 Version: 2.3.7", {}, False),
        ("MPICH Version: 3.4", {"MPICH_GPU_SUPPORT_ENABLED": "1"}, None),
    ],
)
def test_variables_of_libraries_without_such_a_function(monkeypatch, version, setting, takes):
    monkeypatch.setattr(transport, "_ask", lambda library: None)
    monkeypatch.setattr(MPI, "Get_library_version", lambda: version)
    for variable in ("MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in setting.items():
        monkeypatch.setenv(variable, value)
    assert transport.takes_gpu_memory(comm_that_says(None)) is takes


def test_the_mpi_that_is_here_answers():
    assert transport.takes_gpu_memory(MPI.COMM_SELF) in (True, False, None)


# --- sums of the totals of ranks, which the host forms --------------------------------------------

#: Exponents of a total's scale, and the powers of two between which such totals are: from the
#: least square, to squares of 2**57 numbers on each of 8 ranks (`numadam._cuda.norms`).
RANGES = {-600: (-948, 297), 0: (-960, 1019), 600: (-238, 905)}


def added(totals, exponents):
    rows = np.empty((len(totals), 2, 1), np.int64)
    rows[:, 0, 0], rows[:, 1, 0] = np.array(totals, np.float64).view(np.int64), exponents
    (total,), (exponent,) = add_ranks(rows)
    return float(total.view(np.float64)), int(exponent)


@pytest.mark.parametrize("seed", range(40))
def test_sums_of_totals_are_rounded_once(seed):
    random = np.random.default_rng(seed)
    exponents = random.choice(list(RANGES), random.integers(1, 9)).tolist()
    totals = []
    for low, high in map(RANGES.get, exponents):
        power = random.choice([low, high - 1, random.integers(low, high)])
        totals.append(float(np.ldexp(random.uniform(1, 2), power)))
    total, exponent = added(totals, exponents)
    pairs = zip(totals, exponents, strict=True)
    exact = sum((Fraction(t) * Fraction(2) ** (2 * e) for t, e in pairs), Fraction(0))
    got = Fraction(total) * Fraction(2) ** (2 * exponent)
    assert abs(got - exact) <= exact * Fraction(1, 2**53)


@pytest.mark.parametrize(
    ("totals", "exponents", "wanted"),
    [
        ([0.0, 0.0], [-600, -600], (0.0, -600)),
        ([0.0, 2.0], [-600, 0], (2.0, 0)),
        ([2.0**40, 0.0], [-600, -600], (2.0**40, -600)),
        ([1.0, np.inf, 0.0], [0, 600, -600], (np.inf, 600)),
        ([1.0, np.nan, np.inf], [0, 600, 600], (np.nan, 600)),
    ],
)
def test_totals_that_are_zero_or_not_finite(totals, exponents, wanted):
    np.testing.assert_equal(added(totals, exponents), wanted)

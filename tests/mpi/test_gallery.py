"""The program of the gallery's page on ranks: its gradient, and the plate that it finds."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

PROGRAM = Path(__file__).parents[2] / "docs" / "gallery" / "heat_inversion.py"


@pytest.fixture
def heat(monkeypatch):
    spec = importlib.util.spec_from_file_location("heat_inversion", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STEPS", 3)
    return module


def rows_of(whole, comm):
    """The rows of this rank: parts of unlike size."""
    return np.array_split(whole, comm.size)[comm.rank]


def with_ghosts(rows, value):
    return np.pad(rows, ((1, 1), (0, 0)), constant_values=value)


def test_the_gradient_of_all_ranks_is_that_of_the_whole_misfit(heat, comm):
    rng = np.random.default_rng(0)
    x, seen, direction = rng.random((3, 9, 5))
    x, seen, direction = (rows_of(whole, comm) for whole in (x, seen, direction))
    share, g = heat.misfit(with_ghosts(x, np.nan), seen, comm)
    assert share > 0

    def misfit(step):
        moved = with_ghosts(x + step * direction, np.nan)
        return comm.allreduce(heat.misfit(moved, seen, comm)[0])

    slope = comm.allreduce(np.sum(g[1:-1] * direction))
    numbers = (misfit(1e-6) - misfit(-1e-6)) / 2e-6
    np.testing.assert_allclose(slope, numbers, rtol=1e-7)


def test_ghost_rows_of_the_gradient_are_those_of_their_owners(heat, comm):
    x, seen = np.random.default_rng(1).random((2, 9, 5))
    _, g = heat.misfit(with_ghosts(rows_of(x, comm), 0), rows_of(seen, comm), comm)
    firsts, lasts = comm.allgather(g[1]), comm.allgather(g[-2])
    np.testing.assert_array_equal(g[0], lasts[comm.rank - 1] if comm.rank else g[1])
    below = comm.rank + 1
    np.testing.assert_array_equal(g[-1], firsts[below] if below < comm.size else g[-2])


def test_any_number_of_ranks_finds_the_plate_of_one_process(heat, comm):
    truth = np.zeros((12, 8))
    truth[5:8, 2:6] = 1
    seen = truth + heat.NOISE * np.random.default_rng(2).standard_normal(truth.shape)
    found, alone = heat.invert(rows_of(seen, comm), comm), heat.invert(seen, MPI.COMM_SELF)
    assert found.nit == alone.nit
    assert alone.nit > 5
    np.testing.assert_array_equal(found.x[1:-1], rows_of(alone.x[1:-1], comm))
    np.testing.assert_allclose(found.fun, alone.fun, rtol=1e-12)

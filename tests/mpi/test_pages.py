"""Programs of the pages on ranks: blocks of the how-to pages, and the gallery's heat inversion."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from tests.pages import BLOCK

DOCS = Path(__file__).parents[2] / "docs"


def run(page, need):
    """Run the blocks of a page that need a package; the names that they leave behind."""
    names = {"__name__": "__main__"}
    text = (DOCS / "how-to" / page).read_text(encoding="utf-8")
    blocks = [code for given, code in BLOCK.findall(text) if given == need]
    assert blocks
    for code in blocks:
        exec(compile(code, page, "exec"), names)
    return names


def test_the_page_on_ranks(comm, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = run("mpi.md", "mpi4py")
    np.testing.assert_allclose(names["w"], [1, -2, 0.5], atol=1e-4)
    parts = comm.allgather(names["p"])
    assert parts[0].max() < 1
    for part in parts:
        np.testing.assert_array_equal(part, parts[0])
    assert (names["again"].t, names["whole"].t) == (20, 20)
    np.testing.assert_array_equal(names["whole"].params, np.concatenate(comm.allgather(names["x"])))
    norm = np.sqrt(names["n"])  # of the gradient at owned cells, each once
    np.testing.assert_allclose(names["ghosted_norm"], norm, rtol=1e-12)


@pytest.mark.ranks(2)
@pytest.mark.mpi("numba_mpi")
def test_a_solver_compiled_with_its_exchange(comm, capsys):
    if comm.size > 2:
        pytest.skip("compiles for seconds: on two ranks only")
    fitted = run("own-solver.md", "numba_mpi")["fitted"]
    np.testing.assert_allclose(fitted, [3, 0.7], atol=1e-4)
    for other in comm.allgather(fitted):
        np.testing.assert_array_equal(other, fitted)


# --- the gallery: its gradient, and the plate that it finds ---------------------------------------


@pytest.fixture
def heat(monkeypatch):
    program = DOCS / "gallery" / "invert" / "heat_inversion.py"
    spec = importlib.util.spec_from_file_location("heat_inversion", program)
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
    """And its ghost rows are those of their owners."""
    wholes = np.random.default_rng(0).random((3, 9, 5))
    x, seen, direction = (rows_of(whole, comm) for whole in wholes)
    share, g = heat.misfit(with_ghosts(x, np.nan), seen, comm)
    assert share > 0

    def misfit(step):
        moved = with_ghosts(x + step * direction, np.nan)
        return comm.allreduce(heat.misfit(moved, seen, comm)[0])

    slope = comm.allreduce(np.sum(g[1:-1] * direction))
    numbers = (misfit(1e-6) - misfit(-1e-6)) / 2e-6
    np.testing.assert_allclose(slope, numbers, rtol=1e-7)
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

"""The Python blocks of the pages on ranks, as written, on all of them."""

from pathlib import Path

import numpy as np
import pytest

from tests.pages import BLOCK

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def run(page, need):
    """Run the blocks of a page that need a package; the names that they leave behind."""
    names = {"__name__": "__main__"}
    text = (PAGES / page).read_text(encoding="utf-8")
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
    # the smooth line is the solution of its equations
    data = np.concatenate(comm.allgather(names["data"]))
    found = np.concatenate(comm.allgather(names["res"].x[1:-1]))
    jumps = np.diff(np.eye(data.size), axis=0)
    exact = np.linalg.solve(np.eye(data.size) + 20 * jumps.T @ jumps, data)
    np.testing.assert_allclose(found, exact, atol=1e-3)


@pytest.mark.ranks(2)
@pytest.mark.mpi("numba_mpi")
def test_a_solver_compiled_with_its_exchange(comm, capsys):
    if comm.size > 2:
        pytest.skip("compiles for seconds: on two ranks only")
    fitted = run("own-solver.md", "numba_mpi")["fitted"]
    np.testing.assert_allclose(fitted, [3, 0.7], atol=1e-4)
    for other in comm.allgather(fitted):
        np.testing.assert_array_equal(other, fitted)

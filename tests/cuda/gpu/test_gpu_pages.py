"""On a GPU: the Python blocks of the documentation that need one, page by page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import numadam as na
from tests import emulator
from tests.pages import BLOCK

DOCS = Path(__file__).parents[3] / "docs"
GPU = "a GPU"


def tutorial(names):
    assert names["res"].success
    assert names["opt"].t == 1000
    assert abs(float(names["x"][-1]) - 1) < 1e-3


def problems(names):
    assert names["res"].success.all()


def options(names):
    assert float(names["x"].max()) < 0


def own_solver(names):
    """Each thread takes the steps of an optimiser."""
    targets = names["targets"].get()
    x = np.zeros_like(targets)
    opt = na.Adam(x, lr=0.05)
    for _ in range(500):
        opt.step(2 * (x - targets))
    np.testing.assert_allclose(names["found"].get(), x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x, targets, atol=1e-3)


#: By page what its blocks leave behind.
PAGES = {
    "tutorials/gpu.md": tutorial,
    "how-to/many-problems.md": problems,
    "how-to/options.md": options,
    "how-to/own-solver.md": own_solver,
}


def blocks_of(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def test_all_pages_are_run():
    found = {page for page in DOCS.rglob("*.md") if any(need == GPU for need, _ in blocks_of(page))}
    assert found == {DOCS / page for page in PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_page(page, capsys, tmp_path, monkeypatch):
    """Blocks that need packages or several GPUs are not run here: tests/mpi, tests/docs."""
    monkeypatch.chdir(tmp_path)  # some write files
    names = {"__name__": "__main__"}
    for need, code in blocks_of(DOCS / page):
        if need in ("", GPU):
            if emulator.is_running():
                code = code.replace("10_000_000", "1_000")
            exec(compile(code, page, "exec"), names)
    PAGES[page](names)

"""Programs that mypy and pyright check: they run too, and leave no public name out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numadam as na
from tests import typing_pages, typing_refused, typing_user
from tests.pages import BLOCK

ROOT = Path(na.__file__).parents[1]
PAGES = [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
PAGES.append(ROOT / "README.md")
RULES = typing_pages.of_rules()


@pytest.mark.parametrize("call", typing_refused.CALLS, ids=range(len(typing_refused.CALLS)))
def test_a_call_that_checkers_refuse_fails(call):
    with pytest.raises((TypeError, ValueError)):
        call()


def test_pages_and_docstrings_give_programs(tmp_path):
    count = typing_pages.write(tmp_path)
    files = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.py")}
    assert len(files) == count > 80  # no two of one name
    for name, code in files.items():
        compile(code, name, "exec")
    blocks = [code for page in PAGES for _, code in BLOCK.findall(page.read_text(encoding="utf-8"))]
    assert len(blocks) > 80
    assert all(any(code in program for program in files.values()) for code in blocks)


def test_it_runs(tmp_path):
    program: dict[str, Any] = {}
    exec(RULES, program)
    program["every_rule"]()
    assert all((array != 1).all() for array in typing_user.several_arrays().values())
    assert typing_user.in_a_file(tmp_path) == (1, 1)
    for name, x in typing_user.minimised().items():
        np.testing.assert_allclose(x, [1, 2, 3], atol=1e-3, err_msg=name)

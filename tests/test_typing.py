"""The user's script that mypy checks: it runs too, and leaves no public name out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import numadam as na
from tests import typing_rules, typing_user

TEXT = Path(typing_user.__file__).read_text(encoding="utf-8")
RULES = Path(typing_rules.__file__).read_text(encoding="utf-8")


def test_it_uses_every_public_name():
    # tests/typing_nopython.py, the import, and tests/mpi
    modules = {"nopython", "schedules", "mpi"}
    used = set(re.findall(r"\bna\.(\w+)", TEXT + RULES))
    assert used == set(na.__all__) - modules
    assert set(re.findall(r"\bschedules\.(\w+)", TEXT)) == set(na.schedules.__all__)


def test_it_runs(tmp_path):
    typing_rules.every_rule()
    for name, x in typing_user.every_class().items():
        assert np.isfinite(x).all(), name
        assert (x != 0).any(), name
    assert all((array != 1).all() for array in typing_user.several_arrays().values())
    assert all(np.isfinite(array).all() for array in typing_user.on_own_arrays())
    assert typing_user.in_a_file(tmp_path) == (1, 1)
    assert typing_user.rows_of_an_embedding().sum() == -16.0
    assert min(typing_user.every_schedule()) >= 0
    assert len(typing_user.watched()["f"]) == 2
    for name, x in typing_user.minimised().items():
        np.testing.assert_allclose(x, [1, 2, 3], atol=1e-3, err_msg=name)

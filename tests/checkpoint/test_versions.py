"""Files of every version of the format load with exactly what was saved."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint.header import VERSION
from numadam._checkpoint.tree import equal
from tests.checkpoint.version_files import FOLDER, MAKERS, path_of
from tests.runs import digest
from tests.trees import assert_same_containers, tree_leaves

CASES = {(version, name): make for version, of in MAKERS.items() for name, make in of.items()}


def test_every_version_has_files_and_every_file_a_test():
    assert list(MAKERS) == list(range(1, VERSION + 1))
    assert {path_of(*case) for case in CASES} == {*FOLDER.iterdir()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_holds_what_was_saved(case):
    saved, now = na.load(path_of(*case)), CASES[case]()
    assert type(saved) is type(now)
    assert_same_containers(saved.params, now.params)
    for one, other in zip(tree_leaves(saved.params), tree_leaves(now.params), strict=True):
        assert type(one) is type(other)
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape, one.flags.f_contiguous) == (
                other.dtype,
                other.shape,
                other.flags.f_contiguous,
            )
            assert one.tobytes() == other.tobytes()
        else:
            assert one == other
    assert digest(saved) == digest(now)
    assert list(saved.state) == list(now.state)
    options = now._settings.options
    assert equal(saved._settings.options, options)
    assert equal(saved.lr, now.lr)
    # a schedule with a state has that, too
    for pattern, group in (options["groups"] or {}).items():
        assert saved.groups[pattern] == group
    now.load(path_of(*case))
    assert digest(saved) == digest(now)

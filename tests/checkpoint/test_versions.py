"""Files of every version of the format load with exactly what was saved.

``python -m tests.checkpoint.test_versions`` writes them: each once, by the numadam that has that
version, and it stays as it is. What it has to hold is made here from formulas, and not from steps.
A new version adds files and changes none.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import numadam as na
from numadam._checkpoint.header import VERSION
from numadam._checkpoint.tree import equal
from tests.runs import digest
from tests.trees import assert_same_containers, tree_leaves, tree_map

FOLDER = Path(__file__).parent.parent / "data" / "checkpoints"


def fill(opt, **counters):
    """Every state array gets values of its own, and the counters these."""
    state = dict(opt.state.copy())
    for k, name in enumerate(state):
        if np.ndim(state[name]) or isinstance(state[name], dict):
            state[name] = tree_map(lambda a, k=k: None if a is None else _values(a, k), state[name])
    opt.state = state | counters
    return opt


def _values(a, k):
    return np.asarray((np.arange(a.size).reshape(a.shape) + k) / 7).astype(a.dtype)


def everything():
    """What has a place in a file, in float64."""
    plateau = na.schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1)
    for f in (3.0, 2.0, 2.0, 2.0, 1.0):
        plateau.observe(f)
    pieces = na.schedules.Piecewise([0.1, na.schedules.Cosine(0.1, steps=50)], boundaries=[10])
    params = {
        "layers": [{"w": np.asfortranarray(np.arange(6.0).reshape(2, 3) / 3), "b": np.array(-0.0)}],
        "a/b~": (np.array([1e-300, 0.25, -1 / 3]), np.zeros((0, 2))),
        7: np.array([2.0**-1074]),
        "ids": np.arange(4, dtype=np.int32),
        "name": "net",
    }
    frozen = {"ids": {"frozen": True}, "name": {"frozen": True}}
    opt = na.Adam(
        params,
        lr=pieces,
        beta1=na.schedules.Polynomial(0.9, steps=50, end=0.5),
        amsgrad=True,
        weight_decay=0.01,
        accumulate=3,
        nonfinite="skip",
        max_skips=5,
        ema=0.99,
        clip_norm=np.inf,
        bounds={"layers": [{"w": (np.full((2, 3), -1.5), None), "b": None}], "a/b~": (None, None)}
        | {7: (0, 1)},
        groups={**frozen, "layers.*": {"lr": plateau, "eps": 1e-6}},
    )
    counters = {"t": 2**40 + 1, "calls": 2, "skipped": 4, "skipped_in_a_row": 1}
    return fill(opt, **counters, beta1_product=np.full(len(opt.state["beta1_product"]), 1 / 3))


def bfloat16():
    """bfloat16 parameters with a float32 copy, and state in bfloat16."""
    params = {"w": (np.arange(5) / 3).astype(ml_dtypes.bfloat16)}
    return fill(na.AdamW(params, master=True, state_dtype="bfloat16", like="torch"), t=3)


def complex64():
    """A single array of complex numbers, with a real second moment, and a decay that is 0 now."""
    x = (np.arange(4) / 3 + 1j / np.arange(1, 5)).astype(np.complex64)
    opt = na.Adam(x, lr=np.linspace(0, 1, 4), complex_form="modulus", weight_decay=0.1)
    opt.weight_decay = 0.0
    return fill(opt, t=1)


#: By version the files and what they hold.
MAKERS = {1: {"everything": everything, "bfloat16": bfloat16, "complex64": complex64}}


def path_of(version, name):
    return FOLDER / f"version-{version}-{name}.safetensors"


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


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in MAKERS[VERSION].items():
        if not (path := path_of(VERSION, name)).exists():
            make().save(path)

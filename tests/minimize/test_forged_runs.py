"""Files whose checksums fit and whose content no run has: refused before `fun` is called."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint.container import read, write
from tests.campaigns import forged_runs
from tests.campaigns.forged_runs import DONE, LOOPS, MAXITER
from tests.minimize.interrupted import Cut

pytestmark = pytest.mark.usefixtures("quick_files")


@pytest.fixture(scope="module")
def true_files(tmp_path_factory):
    """The contents of files of each loop, as the runs have written them."""
    contents = {}
    for name, loop in LOOPS.items():
        path = tmp_path_factory.mktemp("true") / "a.run"
        if loop.call is None:
            loop.run(maxiter=DONE, checkpoint=path)
        else:
            with pytest.raises(Cut):
                loop.run(loop.call, maxiter=MAXITER, checkpoint=path)
        contents[name] = read(
            path, "minimize_many" if "many" in name or "lanes" in name else "minimize"
        )
    return contents


LEFT_OUT = object()
ONE, MANY = "in Python", "many in Python"
#: Each kind of fault: loop, place in `meta`, what is there, and what the error says.
PLACES = [
    (ONE, "at/done", -5, "done is -5, which no run has"),
    (ONE, "at/done", True, "done is True, which no run has"),
    (ONE, "at/done", 2**64, "done is 18446744073709551616, which no run has"),
    (ONE, "at/done", 8, "state/t is .*, and 8 iterations are done"),
    (ONE, "at/done", LEFT_OUT, "holds what numadam does not write"),
    (ONE, "at/begin", 0.5, "begin is 0.5, which no run has"),
    (ONE, "at/begin", 3, "state/t is .*, and 15 iterations are done"),
    (ONE, "at/lowest", None, "lowest is None, which no run has"),
    (ONE, "at/lowest", math.nan, "lowest is nan, which no run has"),
    (ONE, "at/f", "a", "f is 'a', which no run has"),
    (ONE, "at/f", LEFT_OUT, "has no 'f', so it is no whole run"),
    (ONE, "at/grad_norm", 2**64, "grad_norm is 18446744073709551616, which no run has"),
    (ONE, "at/code", 99, "code is 99, which no run has"),
    (ONE, "at/tested", 1, "tested is 1, which no run has"),
    (ONE, "at/later", math.inf, "later is inf, which no run has"),
    (ONE, "at/nfev", [], r"nfev is \[\], which no run has"),
    (MANY, "at/nfev", -1, "nfev is -1, which no run has"),
    ("in lanes", "at/done", LEFT_OUT, "holds what numadam does not write"),
    (ONE, "at", LEFT_OUT, "holds what numadam does not write"),
    (ONE, "at", 3, "holds what numadam does not write"),
    (ONE, "rule", [], "list indices must be integers"),
    (ONE, "rule/options", 8, "holds what numadam does not write"),
    (ONE, "rule/lr", {"schedule": 9}, "holds what numadam does not write"),
    (ONE, "rule/schedules/0/1", 0, "holds what numadam does not write"),
    (ONE, "rule/schedules/0/1/patience", {}, "not enough values to unpack"),
    (ONE, "rule/schedules/0/1/patience", -1, "patience: expected"),
    (ONE, "run", 3, "does not say which run it is of"),
]
#: Loop, array, what it becomes, and what the error says.
ARRAYS = [
    (ONE, "state/t", lambda t: t + 1, r"state/t is .*13.*, and 12 iterations are done"),
    (ONE, "state/t", None, "t: expected an array of int64"),
    (ONE, "state/m/a", lambda m: m[:1], r"expected an array of float64 \(2,\), got float64 \(1,\)"),
    (ONE, "state/v/a", lambda v: -1 - v, r"state\['v'\].*: expected numbers >= 0"),
    (ONE, "x/b", np.float32, r"expected an array of float64 \(2, 2\), got float32"),
    (ONE, "gradient/b", None, r"gradient/b: expected an array of float64 \(2, 2\), got none"),
    (ONE, "best_x/b", None, r"best_x/b: expected an array of float64 \(2, 2\), got none"),
    (ONE, "history", lambda lines: lines - 1, "history has numbers outside of 0 to 12"),
    (ONE, "history", lambda lines: lines[:, :3], "history: expected an array of float64"),
    (ONE, "history", lambda lines: lines[0, 0], "holds what numadam does not write"),
    ("compiled", "gradient", None, "gradient: expected an array"),
    ("compiled", "best_x", None, "best_x: expected an array"),
    ("compiled, raised", "before", None, "before: expected an array"),
    (MANY, "codes", lambda codes: codes + 99, "codes has numbers outside of 0 to 5"),
    (MANY, "nit", lambda nit: nit - 9, "nit has numbers outside of 0 to 12"),
    (MANY, "nit", np.zeros_like, "nit of a problem that runs is not 12"),
    (MANY, "codes", None, "holds what numadam does not write"),
    ("in lanes", "codes", lambda codes: codes * 1j, "codes: expected an array of int64"),
]  # fmt: skip


def refused(name, content, path, says):
    """A forged file is refused by what it says, and nothing is evaluated."""
    write(path, content)
    with pytest.raises(na.CheckpointError, match=says) as caught:
        LOOPS[name].run(0, maxiter=MAXITER, checkpoint=path)
    assert str(caught.value).startswith(str(path))


def forged(content, place, value):
    """The content with another value at a place of its `meta`."""
    meta = copy.deepcopy(content.meta)
    *outer, last = place.split("/")
    inside = meta
    for key in outer:
        inside = inside[int(key) if isinstance(inside, list) else key]
    if value is LEFT_OUT:
        del inside[last]
    else:
        inside[int(last) if isinstance(inside, list) else last] = value
    return content._replace(meta=meta)


@pytest.mark.parametrize(("name", "place", "value", "says"), PLACES)
def test_what_no_run_has_is_refused(name, place, value, says, true_files, tmp_path):
    refused(name, forged(true_files[name], place, value), tmp_path / "a.run", says)


@pytest.mark.parametrize(("name", "array", "change", "says"), ARRAYS)
def test_an_array_that_no_run_has_is_refused(name, array, change, says, true_files, tmp_path):
    content = true_files[name]
    arrays = {key: value for key, value in content.arrays.items() if key != array}
    if change is not None:
        arrays[array] = np.asarray(change(content.arrays[array]))
    refused(name, content._replace(arrays=arrays), tmp_path / "a.run", says)


@pytest.mark.parametrize("name", LOOPS)
def test_forgeries_are_refused_or_right(name):
    """Some of them; `tests/campaigns/forged_runs.py` tries all."""
    counts, wrong = forged_runs.campaign(name, every=97)
    assert not wrong
    assert counts["refused"] > 15 < sum(counts.values())

"""Files whose checksums fit and whose content no run has: refused before `fun` is called."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint.container import read, write
from tests.minimize.interrupted import cut_at
from tests.minimize.objectives import START, all_at_once, python_rosen, rosen

pytestmark = pytest.mark.usefixtures("quick_files")

STARTS = np.random.default_rng(0).uniform(-2, 2, (5, 2))


def one(path, fun=python_rosen, **options):
    lr = na.schedules.ReduceOnPlateau(0.02, patience=2)
    return na.minimize(fun, START, jac=True, lr=lr, xtol=1e-300, checkpoint=path, **options)


def rows(path, fun=all_at_once, **options):
    return na.minimize_many(fun, STARTS, jac=True, lr=0.02, gtol=20.0, checkpoint=path, **options)


def lanes(path, fun=rosen, **options):
    return na.minimize_many(rosen, STARTS, lr=0.02, gtol=20.0, checkpoint=path, **options)


@pytest.fixture(scope="module")
def true_files(tmp_path_factory):
    """The contents of files of each loop, as the runs have written them."""
    contents = {}
    for run in (one, rows, lanes):
        path = tmp_path_factory.mktemp("true") / "a.run"
        run(path, maxiter=12)
        contents[run] = read(path, "minimize" if run is one else "minimize_many")
    return contents


LEFT_OUT = object()
#: Each kind of fault: run, place in `meta`, what is there, and what the error says.
PLACES = [
    (one, "at/done", -5, "done is -5, which no run has"),
    (one, "at/done", True, "done is True, which no run has"),
    (one, "at/done", 2**64, "done is 18446744073709551616, which no run has"),
    (one, "at/done", 8, "state/t is .*, and 8 iterations are done"),
    (one, "at/done", LEFT_OUT, "holds what numadam does not write"),
    (one, "at/begin", 3, "state/t is .*, and 15 iterations are done"),
    (one, "at/f", LEFT_OUT, "has no 'f', so it is no whole run"),
    (one, "at/code", 99, "code is 99, which no run has"),
    (one, "at/nfev", 0.5, "nfev is 0.5, which no run has"),
    (one, "at/f", "1", "f is '1', which no run has"),
    (one, "at/lowest", None, "lowest is None, which no run has"),
    (one, "at/later", -1.0, "later is -1.0, which no run has"),
    (rows, "at/nfev", -1, "nfev is -1, which no run has"),
    (one, "at", 3, "holds what numadam does not write"),
    (one, "rule", [], "list indices must be integers"),
    (one, "rule/lr", {"schedule": 9}, "holds what numadam does not write"),
    (one, "rule/schedules/0/1/patience", -1, "patience: expected"),
    (one, "run", 3, "does not say which run it is of"),
]
#: Run, array, what it becomes, and what the error says.
ARRAYS = [
    (one, "state/t", lambda t: t + 1, r"state/t is .*13.*, and 12 iterations are done"),
    (one, "state/t", None, "t: expected an array of int64"),
    (one, "state/m", lambda m: m[:1], r"expected an array of float64 \(2,\), got float64 \(1,\)"),
    (one, "state/v", lambda v: -1 - v, r"state\['v'\].*: expected numbers >= 0"),
    (one, "x", np.float32, r"expected an array of float64 \(2,\), got float32"),
    (one, "history", lambda lines: lines - 1, "history has numbers outside of 0 to 12"),
    (one, "history", lambda lines: lines[:, :3], "history: expected an array of float64"),
    (rows, "codes", lambda codes: codes + 99, "codes has numbers outside of 0 to 5"),
    (lanes, "nit", lambda nit: nit - 99, "nit has numbers outside of 0 to 12"),
    (lanes, "codes", lambda codes: codes * 1j, "codes: expected an array of int64"),
]  # fmt: skip


def refused(run, content, path, says):
    """A forged file is refused by what it says, and nothing is evaluated."""
    write(path, content)
    with pytest.raises(na.CheckpointError, match=says) as caught:
        run(path, cut_at(None, 0), maxiter=20)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("run", "place", "value", "says"), PLACES)
def test_what_no_run_has_is_refused(run, place, value, says, true_files, tmp_path):
    content = copy.deepcopy(true_files[run])
    *outer, last = place.split("/")
    inside = content.meta
    for key in outer:
        inside = inside[int(key) if isinstance(inside, list) else key]
    if value is LEFT_OUT:
        del inside[last]
    else:
        inside[last] = value
    refused(run, content, tmp_path / "a.run", says)


@pytest.mark.parametrize(("run", "array", "change", "says"), ARRAYS)
def test_an_array_that_no_run_has_is_refused(run, array, change, says, true_files, tmp_path):
    content = true_files[run]
    arrays = {key: value for key, value in content.arrays.items() if key != array}
    if change is not None:
        arrays[array] = np.asarray(change(content.arrays[array]))
    refused(run, content._replace(arrays=arrays), tmp_path / "a.run", says)

"""Runs with a file: cut anywhere and called again, they end with the bits of the run in one.

Files whose checksums fit and whose content no run has: refused before `fun` is called.
"""

from __future__ import annotations

import copy
import functools

import numba
import numpy as np
import pytest
from scipy.optimize import Bounds

import numadam as na
from numadam._checkpoint.container import read, write
from numadam._minimize import checkpoint
from numadam._minimize.lanes import batch
from tests import extras
from tests.minimize.objectives import (
    START,
    Cut,
    all_at_once,
    assert_same_problems,
    assert_same_run,
    compiled_run,
    cut_at,
    forms,
    nested_rosen,
    pieces,
    python_rosen,
    rosen,
    run,
    square,
    why,
)
from tests.processes import interrupted_after

pytestmark = pytest.mark.usefixtures("quick_files")


PLATEAU = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=2)
OPTIONS = {
    "decay": {"lr": na.schedules.Cosine(0.5, steps=40), "amsgrad": True, "xtol": 1e-9},
    "stops": {"lr": 0.02, "ftol": 1e-3, "norm": 2},
    "plateau": {"lr": PLATEAU},
    "average": {
        "lr": 0.02, "clip_norm": 2.0, "ema": 0.9, "bounds": (-1.1, 0.9),
    },
    "seldom": {"lr": 0.02, "check_every": 7, "xtol": 1e-6, "gtol": 0},
    "last": {"lr": 0.5, "track_best": False, "history": 5},
}  # fmt: skip


def own(options):
    """Options with schedules that no other run observes."""
    return copy.deepcopy(options)


def python_run(call, **options):
    return na.minimize(cut_at(python_rosen, call), START, jac=True, **options)


def nested_run(call, **options):
    start = {"a/b": START, "c": [np.ones((2, 2), order="F")]}
    return na.minimize(cut_at(nested_rosen, call), start, jac=True, **options)


def apart_run(call, **options):
    jac = cut_at(lambda x: python_rosen(x)[1], call)
    return na.minimize(lambda x: python_rosen(x)[0], START, jac=jac, **options)


def difference_run(call, **options):
    return na.minimize(cut_at(lambda x: python_rosen(x)[0], call), START, **options)


def complex_run(call, **options):
    def fun(z):
        return float(np.sum(abs(z - 1j) ** 2)), 2 * (z - 1j)

    return na.minimize(cut_at(fun, call), [2 + 1j], jac=True, **options)


RUNS = [
    *((python_run, name) for name in OPTIONS),
    *((compiled_run, name) for name in ("decay", "stops", "plateau", "last")),
    *((run, "decay") for run in (nested_run, apart_run, difference_run)),
    (complex_run, "last"),
    (nested_run, "stops"),
    (apart_run, "seldom"),
]


def assert_all_same(a, b):
    """The same results, those of nested arrays too."""
    if isinstance(a.x, dict):
        a, b = copy.deepcopy(a), copy.deepcopy(b)
        for result in (a, b):
            for name in ("x", "jac", "x_last"):
                result[name] = np.concatenate([result[name]["a/b"], result[name]["c"][0].ravel()])
            result.state = {"t": result.state["t"], "first": result.state["first_grad_norm"]}
    assert_same_run(a, b)
    if "averaged" in a:
        np.testing.assert_array_equal(a.averaged, b.averaged)


@pytest.mark.parametrize(("make", "name"), RUNS, ids=lambda part: getattr(part, "__name__", part))
def test_cut_anywhere_the_run_is_that_of_one_piece(make, name, tmp_path):
    """By an exception of fun, between the writes of every 5 iterations."""
    whole = make(None, maxiter=23, **own(OPTIONS[name]))

    def piece(call, checkpoint):
        options = own(OPTIONS[name])
        return make(call, maxiter=23, checkpoint=checkpoint, checkpoint_every=5, **options)

    for call in (0, 1, 9, 20):
        path = tmp_path / f"{call}.run"
        assert_all_same(pieces(path, piece, [call]), whole)
        # whose file is there already, at once: f is evaluated for the comparison alone
        assert_all_same(piece(1, path), whole)
    assert_all_same(pieces(tmp_path / "many.run", piece, [3, 0, 2, 4, 0, 5]), whole)


@pytest.mark.parametrize("make", [python_run, compiled_run, apart_run])
@pytest.mark.parametrize("name", ["decay", "plateau"])
def test_a_larger_maxiter_goes_on(make, name, tmp_path):
    path = tmp_path / "a.run"
    whole = make(None, maxiter=40, **own(OPTIONS[name]), track_best=True)
    for maxiter in (0, 1, 13, 40):
        options = {**own(OPTIONS[name]), "maxiter": maxiter, "track_best": True}
        part = make(None, checkpoint=path, **options)
        assert (part.nit, part.status) == (maxiter, 1)
    assert_same_run(part, whole)
    again = make(1, checkpoint=path, **{**options, "maxiter": 7})  # it cannot go back
    assert_same_run(again, whole)


@forms
def test_a_callback_is_asked_again_where_it_ended_the_run(fun, tmp_path):
    seen = []

    def until(last):
        def callback(intermediate_result):
            seen.append(intermediate_result.nit)
            if intermediate_result.nit == last and intermediate_result.fun > 0.0:
                raise StopIteration

        return callback

    options = {"lr": 0.02, "maxiter": 9}
    for last, asked in ((4, [1, 2, 3, 4]), (4, [4]), (6, [4, 5, 6]), (99, [6, 7, 8, 9])):
        res = run(fun, callback=until(last), checkpoint=tmp_path / "a.run", **options)
        assert (seen, res.status) == (asked, 99 if last < 9 else 1)
        seen.clear()
    whole = run(fun, **options)
    np.testing.assert_array_equal(res.x, whole.x)
    assert res.nfev == whole.nfev


def test_observers_see_what_check_every_says_whatever_ends_a_call(tmp_path, monkeypatch):
    """A file that is due, a slow objective, an iterate at which fun raised: none of them counts."""

    def watched(call, seen, **more):
        lr = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=1)
        options = {"lr": lr, "maxiter": 23, "check_every": 5, "gtol": 0}
        return compiled_run(
            call, callback=lambda intermediate_result: seen.append(intermediate_result.nit),
            **options, **more,
        )  # fmt: skip

    whole = watched(None, seen := [])
    assert seen == [5, 10, 15, 20, 23]
    seen.clear()
    assert_same_run(pieces(tmp_path / "a", functools.partial(watched, seen=seen), [8, 9]), whole)
    assert seen == [5, 10, 15, 20, 23]
    seen.clear()
    monkeypatch.setattr("numadam._minimize.compiled.run._SECONDS_A_CALL", 0.0)
    often = watched(None, seen, checkpoint=tmp_path / "b", checkpoint_every=2)
    assert_same_run(often, whole)
    assert seen == [5, 10, 15, 20, 23]


def test_a_run_from_a_state_has_a_file_of_its_own(tmp_path):
    options = {"jac": True, "lr": 0.02}
    half = na.minimize(python_rosen, START, maxiter=20, **options)
    rest = {"maxiter": 20, "checkpoint": tmp_path / "a.run", "checkpoint_every": 3, **options}
    with pytest.raises(Cut):
        na.minimize(cut_at(python_rosen, 11), half.x, state=half.state, **rest)
    with pytest.raises(ValueError, match=r"state: the run goes on from the file that is there"):
        na.minimize(python_rosen, half.x, state=half.state, **rest)
    res = na.minimize(python_rosen, half.x, **rest)
    whole = na.minimize(python_rosen, START, maxiter=40, **options)
    assert res.nit == 40
    np.testing.assert_array_equal(res.x_last, whole.x_last)
    assert why(res) == why(whole)


STARTS = np.random.default_rng(0).uniform(-2, 2, (150, 2))
#: One packet of lanes: its loop takes a third of the time to compile.
FEW = STARTS[:60]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("call", "x0"), [(na.minimize, START), (na.minimize_many, STARTS)])
def test_an_interrupt_writes_the_file(call, x0, tmp_path):
    path, options = tmp_path / "a.run", {"gtol": 0, "lr": 1e-9}
    call(rosen, x0, maxiter=1, **options)  # compiled before the interrupt comes
    with interrupted_after(0.3), pytest.raises(KeyboardInterrupt) as caught:
        call(rosen, x0, maxiter=10**9, checkpoint=path, **options)
    nit = int(np.max(caught.value.numadam_result.nit))
    assert read(path, call.__name__).meta["at"]["done"] == nit
    res = call(rosen, x0, maxiter=nit + 10, checkpoint=path, **options)
    whole = call(rosen, x0, maxiter=nit + 10, **options)
    assert_same_problems(res, whole)
    assert res.nfev == whole.nfev


def test_a_disk_that_is_full_leaves_the_result(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.container, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        python_run(None, maxiter=30, checkpoint=tmp_path / "a.run")
    assert caught.value.numadam_result.nit == 30
    with pytest.raises(Cut) as cut:
        python_run(3, checkpoint=tmp_path / "a.run")
    assert any("could not be written" in note for note in cut.value.__notes__)


CHANGES = [
    ({"lr": 0.03}, "lr"),
    ({"rule": "nadam"}, "rule"),
    ({"beta1": 0.8}, "beta1"),
    ({"bounds": (-2, 2)}, "bounds"),
    ({"gtol": 1e-3}, "gtol"),
    ({"ftol": 1e-3}, "ftol"),
    ({"norm": 2}, "norm"),
    ({"check_every": 2}, "check_every"),
    ({"track_best": False}, "track_best"),
    ({"x0": START + 1e-9}, "x0"),
    ({"x0": START.astype(np.float32)}, "x0"),
    ({"x0": np.zeros(3)}, "x0"),
    ({"x0": {"a": START}}, "x0"),
    ({"fun": rosen, "jac": None}, "fun"),
    ({"jac": lambda x: x}, "jac"),
]


@pytest.mark.parametrize(("change", "name"), CHANGES, ids=[name for _, name in CHANGES])
def test_a_file_of_another_run_is_refused_before_anything_is_evaluated(change, name, tmp_path):
    path = tmp_path / "a.run"
    first = {"x0": START, "jac": True, "lr": 0.02, "maxiter": 5, "checkpoint": path}
    na.minimize(python_rosen, **first)
    content = path.read_bytes()
    given = {"fun": cut_at(python_rosen, 0), **first, **change}
    with pytest.raises(na.CheckpointError, match=rf"^{name}: the run .*Pass the same"):
        na.minimize(**given)
    assert path.read_bytes() == content


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "a.run"
    many = {"jac": True, "maxiter": 3, "checkpoint": path}
    na.minimize_many(lambda X: (np.sum(X**2, axis=1), 2 * X), np.ones((2, 3)), **many)
    with pytest.raises(na.CheckpointError, match=r"was saved by numadam.minimize_many, not by"):
        na.minimize(python_rosen, START, **many)
    path.write_bytes(b"something else")
    with pytest.raises(na.CheckpointError, match=r"not a checkpoint"):
        na.minimize(python_rosen, START, **many)
    assert path.read_bytes() == b"something else"


def falling(taken):
    return 0.1 / (taken + 1)


def test_what_cannot_be_is_refused_before_anything_is_evaluated(tmp_path):
    path, link, folder = (tmp_path / name for name in ("a", "link", "folder"))
    link.symlink_to(tmp_path / "none" / "a")
    folder.mkdir()
    says = r"^lr: a function .*falling\)\. Use a schedule of .*, or run without checkpoint\.$"
    for options, error, text in (
        ({"checkpoint": path, "lr": falling}, TypeError, says),
        ({"checkpoint": 3}, TypeError, "checkpoint: expected the path of a file, got int"),
        ({"checkpoint_every": 3}, ValueError, "checkpoint_every: goes with checkpoint=path"),
        ({"checkpoint": path, "checkpoint_every": 0}, ValueError, "checkpoint_every: .*least 1"),
        ({"checkpoint": link.readlink()}, FileNotFoundError, "checkpoint: there is no folder"),
        ({"checkpoint": folder}, IsADirectoryError, "checkpoint: is a folder"),
        ({"checkpoint": "/dev/null"}, OSError, "checkpoint: is no regular file"),
        ({"checkpoint": "/proc/a"}, OSError, "checkpoint: "),  # writable, but takes no new files
    ):
        with pytest.raises(error, match=text):
            python_run(0, **options)
    with pytest.raises(TypeError, match=says):
        na.minimize_many(rosen, FEW, lr=falling, checkpoint=path)
    assert sorted(tmp_path.iterdir()) == [folder, link]


def test_a_folder_that_fun_leaves_is_that_of_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fun(x):
        monkeypatch.chdir("/")
        return square(x)

    na.minimize(fun, np.ones(2), jac=True, maxiter=3, checkpoint="a.run")
    assert (tmp_path / "a.run").exists()


def test_files_are_written_as_often_as_asked(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        checkpoint.container,
        "write",
        lambda path, content: written.append(content.meta["at"]["done"]),
    )
    options = {"lr": 0.02, "maxiter": 20, "gtol": 0, "checkpoint": tmp_path / "a.run"}
    for fun in (rosen, python_rosen):
        run(fun, checkpoint_every=7, **options)
        run(fun, **options)  # by time
        assert written == [7, 14, 20, 20]
        written.clear()
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", np.inf)
    run(python_rosen, **options)
    assert written == [*range(20), 20]


# --- many problems -------------------------------------------------------------------------------

LOW = np.minimum(FEW - 0.1, np.random.default_rng(1).uniform(-2, 0, FEW.shape))


#: In lanes and one by one, with step sizes, bounds and averages that each problem has of its own.
MANY = {
    "lanes": {"lr": 0.02, "gtol": 1e-2},
    "decay": {
        "lr": na.schedules.Cosine(0.1, steps=500),
        "xtol": 1e-6,
        "bounds": Bounds([-1, -1], [1, 0.5]),
    },
    "average": {"rule": "sgd", "lr": 1e-4, "momentum": 0.9, "gtol": 0.5, "ema": 0.5},
    "own bounds": {"lr": 0.02, "gtol": 1e-2, "bounds": (LOW, LOW + 1.5)},
    "own lr": {"lr": np.random.default_rng(2).uniform(0.01, 0.03, (150, 1)), "gtol": 1e-2},
}


def assert_same(a, b):
    assert_same_problems(a, b)
    assert (a.nfev, why(a)) == (b.nfev, why(b))
    if "averaged" in a:
        np.testing.assert_array_equal(a.averaged, b.averaged)


RUNS_OF_MANY = [(rosen, name) for name in ("lanes", "own bounds", "own lr")]
RUNS_OF_MANY += [(all_at_once, "decay"), *(extras.sweep(rosen, n) for n in ("decay", "average"))]


@pytest.mark.parametrize(
    ("fun", "name"), RUNS_OF_MANY, ids=lambda part: getattr(part, "__name__", part)
)
def test_any_pieces_are_the_run_in_one(fun, name, tmp_path):
    starts, jac = (FEW[:20], True) if fun is all_at_once else (FEW, None)
    if name == "own lr":  # one to a packet: so many that a block has several
        starts = STARTS
    many = functools.partial(na.minimize_many, fun, starts, jac=jac, **MANY[name])
    path = tmp_path / "a.run"
    whole = many(maxiter=600)
    assert len(set(whole.nit)) > 2
    for maxiter in (0, 1, 77, 300, 301, 600):
        res = many(maxiter=maxiter, checkpoint=path, checkpoint_every=37)
        assert res.nit.max() <= maxiter
    assert_same(res, whole)
    file = path.stat().st_ino
    assert_same(many(maxiter=600, checkpoint=path, checkpoint_every=37), whole)
    assert path.stat().st_ino == file  # read, and not written again


def test_another_number_of_threads_goes_on(tmp_path, monkeypatch):
    """Blocks, and so the places of the problems, are then others."""
    options, path = MANY["lanes"], tmp_path / "a.run"
    whole = na.minimize_many(rosen, STARTS, **options)
    for maxiter, block in ((100, 64), (200, 128), (300, 64), (10_000, 192)):
        monkeypatch.setattr(batch, "_block_packets", lambda *args, block=block: block // 64)
        res = na.minimize_many(rosen, STARTS, maxiter=maxiter, checkpoint=path, **options)
    assert_same(res, whole)


def rows_cut(call, **more):
    fun = cut_at(all_at_once, call)
    return na.minimize_many(fun, FEW[:5], jac=True, lr=0.02, maxiter=50, **more)


@numba.njit
def third_cut(x, g, i, left):
    if i == 3:
        left[0] -= 1
        if left[0] < 0:
            raise Cut
    return rosen(x, g)


def compiled_cut(call, **more):
    left = np.array([1000 if call is None else call])
    return na.minimize_many(third_cut, FEW[:5], (left,), lr=0.02, maxiter=90, gtol=0, **more)


#: The last of the calls are too few for a run from its start.
CUTS = [(rows_cut, (0, 3, 20, 31), 20, 8), (compiled_cut, (0, 30, 41), 60, 20)]


@pytest.mark.parametrize(("many", "calls", "rest", "every"), CUTS, ids=["rows", "compiled"])
def test_what_raises_leaves_the_file_before(many, calls, rest, every, tmp_path):
    whole, kept = many(None), {"checkpoint": tmp_path / "a.run", "checkpoint_every": every}
    for call in calls:
        with pytest.raises(Cut):
            many(call, **kept)
    assert_same(many(rest, **kept), whole)


def test_another_run_of_many_is_refused(tmp_path):
    path = tmp_path / "a.run"
    first = {"x0": FEW, "lr": 0.02, "maxiter": 3, "checkpoint": path}
    na.minimize_many(rosen, **first)
    for change, name in (
        ({"lr": 0.03}, "lr"),
        ({"lr": MANY["own lr"]["lr"][:60]}, "lr"),
        ({"x0": FEW[:59]}, "x0"),
        ({"x0": FEW + 1}, "x0"),
        ({"bounds": MANY["own bounds"]["bounds"]}, "bounds"),
        ({"xtol": 1e-3}, "xtol"),
    ):
        with pytest.raises(na.CheckpointError, match=rf"(?s)^{name}: the run .*Pass the same"):
            na.minimize_many(rosen, **first | change)
    with pytest.raises(na.CheckpointError, match=r"was saved by numadam.minimize_many, not by"):
        na.minimize(rosen, STARTS[0], checkpoint=path)


# --- forged runs ---------------------------------------------------------------------------------


FORGED = np.random.default_rng(0).uniform(-2, 2, (5, 2))


def one(path, fun=python_rosen, **options):
    lr = na.schedules.ReduceOnPlateau(0.02, patience=2)
    return na.minimize(fun, START, jac=True, lr=lr, xtol=1e-300, checkpoint=path, **options)


def rows(path, fun=all_at_once, **options):
    return na.minimize_many(fun, FORGED, jac=True, lr=0.02, gtol=20.0, checkpoint=path, **options)


def lanes(path, fun=rosen, **options):
    return na.minimize_many(rosen, FORGED, lr=0.02, gtol=20.0, checkpoint=path, **options)


@pytest.fixture(scope="module")
def true_files(tmp_path_factory):
    """The contents of files of each loop, as the runs have written them."""
    contents = {}
    for make in (one, rows, lanes):
        path = tmp_path_factory.mktemp("true") / "a.run"
        make(path, maxiter=12)
        contents[make] = read(path, "minimize" if make is one else "minimize_many")
    return contents


LEFT_OUT = object()
#: Each kind of fault: run, place in `meta`, what is there, and what the error says.
PLACES = [
    (one, "at/done", -5, "done is -5, which no run has"),
    (one, "at/done", 8, "state/t is .*, and 8 iterations are done"),
    (one, "at/done", LEFT_OUT, "holds what numadam does not write"),
    (one, "at/begin", 3, "state/t is .*, and 15 iterations are done"),
    (one, "at/f", LEFT_OUT, "has no 'f', so it is no whole run"),
    (one, "at/nfev", 0.5, "nfev is 0.5, which no run has"),
    (one, "at/f", "1", "f is '1', which no run has"),
    (rows, "at/nfev", -1, "nfev is -1, which no run has"),
    (one, "rule/lr", {"schedule": 9}, "holds what numadam does not write"),
    (one, "rule/schedules/0/1/patience", -1, "patience: expected"),
    (one, "run", 3, "does not say which run it is of"),
]
#: Run, array, what it becomes, and what the error says.
ARRAYS = [
    (one, "state/t", lambda t: t + 1, r"state/t is .*13.*, and 12 iterations are done"),
    (one, "state/m", lambda m: m[:1], r"expected an array of float64 \(2,\), got float64 \(1,\)"),
    (one, "state/v", lambda v: -1 - v, r"state\['v'\].*: expected numbers >= 0"),
    (one, "history", lambda lines: lines - 1, "history has numbers outside of 0 to 12"),
    (one, "history", lambda lines: lines[:, :3], "history: expected an array of float64"),
    (rows, "codes", lambda codes: codes + 99, "codes has numbers outside of 0 to 5"),
    (lanes, "nit", lambda nit: nit - 99, "nit has numbers outside of 0 to 12"),
]  # fmt: skip


def refused(kind, content, path, says):
    """A forged file is refused by what it says, and nothing is evaluated."""
    write(path, content)
    with pytest.raises(na.CheckpointError, match=says) as caught:
        kind(path, cut_at(None, 0), maxiter=20)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("kind", "place", "value", "says"), PLACES)
def test_what_no_run_has_is_refused(kind, place, value, says, true_files, tmp_path):
    content = copy.deepcopy(true_files[kind])
    *outer, last = place.split("/")
    inside = content.meta
    for key in outer:
        inside = inside[int(key) if isinstance(inside, list) else key]
    if value is LEFT_OUT:
        del inside[last]
    else:
        inside[last] = value
    refused(kind, content, tmp_path / "a.run", says)


@pytest.mark.parametrize(("kind", "array", "change", "says"), ARRAYS)
def test_an_array_that_no_run_has_is_refused(kind, array, change, says, true_files, tmp_path):
    content = true_files[kind]
    arrays = {key: value for key, value in content.arrays.items() if key != array}
    if change is not None:
        arrays[array] = np.asarray(change(content.arrays[array]))
    refused(kind, content._replace(arrays=arrays), tmp_path / "a.run", says)

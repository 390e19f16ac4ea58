"""Runs of `minimize` with a file: cut anywhere and called again, they end with the same bits."""

from __future__ import annotations

import copy
import functools
import shutil

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint.container import read
from numadam._checkpoint.header import VERSION
from tests.minimize import version_files
from tests.minimize.compared import assert_same_problems, assert_same_run
from tests.minimize.interrupted import Cut, compiled_run, cut_at, pieces
from tests.minimize.objectives import START, python_rosen, rosen, square

pytestmark = pytest.mark.usefixtures("quick_files")

PLATEAU = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=2)
OPTIONS = {
    "decay": {"lr": na.schedules.Cosine(0.5, steps=40), "amsgrad": True, "xtol": 1e-9},
    "stops": {"lr": 0.02, "ftol": 1e-3, "norm": 2},
    "plateau": {"lr": PLATEAU},
    "average": {"rule": "sgd", "lr": 1e-4, "ema": 0.9, "clip_norm": 2.0, "bounds": (-1.1, 0.9)},
    "seldom": {"lr": 0.02, "check_every": 7, "xtol": 1e-6, "gtol": 0},
    "last": {"lr": 0.5, "track_best": False, "history": 5},
}


def own(options):
    """Options with schedules that no other run observes."""
    return copy.deepcopy(options)


def python_run(call, jac=True, **options):
    fun = python_rosen if call is None else cut_at(python_rosen, call)
    return na.minimize(fun, START, jac=jac, **options)


def nested_run(call, **options):
    def fun(x):
        f, g = python_rosen(x["a/b"])
        return f, {"a/b": g, "c": [2 * x["c"][0]]}

    start = {"a/b": START, "c": [np.ones((2, 2), order="F")]}
    return na.minimize(cut_at(fun, 10**9 if call is None else call), start, jac=True, **options)


def apart_run(call, **options):
    def jac(x):
        return python_rosen(x)[1]

    jac = jac if call is None else cut_at(jac, call)
    return na.minimize(lambda x: python_rosen(x)[0], START, jac=jac, **options)


def difference_run(call, **options):
    fun = cut_at(lambda x: python_rosen(x)[0], 10**9 if call is None else call)
    return na.minimize(fun, START, **options)


def complex_run(call, **options):
    def fun(z):
        return float(np.sum(abs(z - 1j) ** 2)), 2 * (z - 1j)

    return na.minimize(cut_at(fun, 10**9 if call is None else call), [2 + 1j], jac=True, **options)


RUNS = [
    *((python_run, name) for name in OPTIONS),
    *((compiled_run, name) for name in ("decay", "stops", "plateau", "last")),
    *((run, "decay") for run in (nested_run, apart_run, difference_run, complex_run)),
    (nested_run, "stops"),
    (apart_run, "seldom"),
]


def assert_all_same(a, b):
    """The same results, those of nested arrays too."""
    if isinstance(a.x, dict):
        a, b = (copy.deepcopy(one) for one in (a, b))
        for one in (a, b):
            for name in ("x", "jac", "x_last"):
                one[name] = np.concatenate([one[name]["a/b"], one[name]["c"][0].ravel()])
            one.state = {"t": one.state["t"], "first": one.state["first_grad_norm"]}
    assert_same_run(a, b)
    if "averaged" in a:
        np.testing.assert_array_equal(a.averaged, b.averaged)


@pytest.mark.parametrize(("run", "name"), RUNS, ids=lambda one: getattr(one, "__name__", one))
def test_cut_anywhere_the_run_is_that_of_one_piece(run, name, tmp_path):
    """By an exception of fun, between the writes of every 5 iterations."""
    whole = run(None, maxiter=23, **own(OPTIONS[name]))

    def piece(call, checkpoint):
        options = own(OPTIONS[name])
        return run(call, maxiter=23, checkpoint=checkpoint, checkpoint_every=5, **options)

    for call in (0, 1, 9, 20):
        path = tmp_path / f"{call}.run"
        assert_all_same(pieces(path, piece, [call]), whole)
        # whose file is there already, at once: nothing is evaluated
        assert_all_same(piece(0, path), whole)
    assert_all_same(pieces(tmp_path / "many.run", piece, [3, 0, 2, 4, 0, 5]), whole)


@pytest.mark.parametrize("run", [python_run, compiled_run, apart_run])
@pytest.mark.parametrize("name", ["decay", "plateau"])
def test_a_larger_maxiter_goes_on(run, name, tmp_path):
    path = tmp_path / "a.run"
    whole = run(None, maxiter=40, **own(OPTIONS[name]), track_best=True)
    for maxiter in (0, 1, 13, 40):
        options = {**own(OPTIONS[name]), "maxiter": maxiter, "track_best": True}
        part = run(None, checkpoint=path, **options)
        assert (part.nit, part.status) == (maxiter, 1)
    assert_same_run(part, whole)
    again = run(0, checkpoint=path, **{**options, "maxiter": 7})  # it cannot go back
    assert_same_run(again, whole)


@pytest.mark.parametrize("fun", [rosen, python_rosen], ids=["compiled", "python"])
def test_a_callback_is_asked_again_where_it_ended_the_run(fun, tmp_path):
    jac, seen = None if fun is rosen else True, []

    def until(last):
        def callback(intermediate_result):
            seen.append(intermediate_result.nit)
            if intermediate_result.nit == last and intermediate_result.fun > 0.0:
                raise StopIteration

        return callback

    run = {"jac": jac, "lr": 0.02, "maxiter": 9, "checkpoint": tmp_path / "a.run"}
    for last, asked in ((4, [1, 2, 3, 4]), (4, [4]), (6, [4, 5, 6]), (99, [6, 7, 8, 9])):
        res = na.minimize(fun, START, callback=until(last), **run)
        assert (seen, res.status) == (asked, 99 if last < 9 else 1)
        seen.clear()
    del run["checkpoint"]
    whole = na.minimize(fun, START, **run)
    np.testing.assert_array_equal(res.x, whole.x)
    assert res.nfev == whole.nfev


def test_observers_see_what_check_every_says_whatever_ends_a_call(tmp_path, monkeypatch):
    """A file that is due, a slow objective, an iterate at which fun raised: none of them counts."""
    from numadam._minimize.compiled import problem

    def run(call, seen, **more):
        lr = na.schedules.ReduceOnPlateau(0.5, factor=0.5, patience=1)
        options = {"lr": lr, "maxiter": 23, "check_every": 5, "gtol": 0}
        return compiled_run(
            call, callback=lambda intermediate_result: seen.append(intermediate_result.nit),
            **options, **more,
        )  # fmt: skip

    whole = run(None, seen := [])
    assert seen == [5, 10, 15, 20, 23]
    seen.clear()
    assert_same_run(pieces(tmp_path / "a", functools.partial(run, seen=seen), [8, 9]), whole)
    assert seen == [5, 10, 15, 20, 23]
    seen.clear()
    monkeypatch.setattr(problem, "_SECONDS_A_CALL", 0.0)
    often = run(None, seen, checkpoint=tmp_path / "b", checkpoint_every=2)
    assert_same_run(often, whole)
    assert seen == [5, 10, 15, 20, 23]


def test_a_run_from_a_state_has_a_file_of_its_own(tmp_path):
    path, run = tmp_path / "a.run", {"jac": True, "lr": 0.02}
    half = na.minimize(python_rosen, START, maxiter=20, **run)
    rest = {"maxiter": 20, "checkpoint": path, "checkpoint_every": 3, **run}
    with pytest.raises(Cut):
        na.minimize(cut_at(python_rosen, 11), half.x, state=half.state, **rest)
    with pytest.raises(ValueError, match=r"state: the run goes on from the file that is there"):
        na.minimize(python_rosen, half.x, state=half.state, **rest)
    res = na.minimize(python_rosen, half.x, **rest)
    whole = na.minimize(python_rosen, START, maxiter=40, **run)
    assert res.nit == 40
    np.testing.assert_array_equal(res.x_last, whole.x_last)
    assert res.message == whole.message


def test_an_interrupt_writes_the_file(tmp_path):
    import _thread
    import signal
    import threading

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    path, run = tmp_path / "a.run", {"gtol": 0, "lr": 1e-9, "history": 1000}
    na.minimize(rosen, START, maxiter=1, **run)  # compiled before the interrupt comes
    try:
        timer = threading.Timer(0.3, _thread.interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            na.minimize(rosen, START, maxiter=10**9, checkpoint=path, **run)
    finally:
        signal.signal(signal.SIGINT, before)
    nit = caught.value.numadam_result.nit
    assert read(path, "minimize").meta["at"]["done"] == nit
    res = na.minimize(rosen, START, maxiter=nit + 10, checkpoint=path, **run)
    whole = na.minimize(rosen, START, maxiter=nit + 10, **run)
    np.testing.assert_array_equal(res.x, whole.x)
    assert (res.nit, res.nfev) == (whole.nit, whole.nfev)


def test_a_disk_that_is_full_leaves_the_result(tmp_path, monkeypatch):
    from numadam._minimize import checkpoint

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        na.minimize(python_rosen, START, jac=True, maxiter=30, checkpoint=tmp_path / "a.run")
    assert caught.value.numadam_result.nit == 30
    with pytest.raises(Cut) as cut:
        na.minimize(cut_at(python_rosen, 3), START, jac=True, checkpoint=tmp_path / "a.run")
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
    run = {"x0": START, "jac": True, "lr": 0.02, "maxiter": 5, "checkpoint": path}
    na.minimize(python_rosen, **run)
    content = path.read_bytes()
    given = {"fun": cut_at(python_rosen, 0), **run, **change}
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


def test_arguments_that_cannot_be_are_refused(tmp_path):
    def run(**options):
        return na.minimize(cut_at(python_rosen, 0), START, jac=True, **options)

    with pytest.raises(TypeError, match=r"lr: a function of the user's cannot be saved"):
        run(checkpoint=tmp_path / "a", lr=lambda t: 0.1)
    with pytest.raises(TypeError, match=r"checkpoint: expected the path of a file, got int"):
        run(checkpoint=3)
    with pytest.raises(ValueError, match=r"checkpoint_every: goes with checkpoint=path"):
        run(checkpoint_every=3)
    with pytest.raises(ValueError, match=r"checkpoint_every: expected .* at least 1"):
        run(checkpoint=tmp_path / "a", checkpoint_every=0)
    assert not list(tmp_path.iterdir())


def test_a_function_as_lr_is_refused_with_what_a_run_can_do(tmp_path):
    def falling(taken):
        return 0.1 / (taken + 1)

    says = r"^lr: a function .*falling\)\. Use a schedule of .*, or run without checkpoint\.$"
    for call, x0 in ((na.minimize, START), (na.minimize_many, np.array([START] * 2))):
        with pytest.raises(TypeError, match=says):
            call(rosen, x0, lr=falling, checkpoint=tmp_path / "a.run")
    assert not list(tmp_path.iterdir())


def test_a_place_that_takes_no_file_is_refused_before_anything_is_evaluated(tmp_path):
    link, folder = tmp_path / "link", tmp_path / "folder"
    link.symlink_to(tmp_path / "none" / "a")
    folder.mkdir()
    places = [
        (tmp_path / "none" / "a", FileNotFoundError, r"checkpoint: there is no folder"),
        (link, FileNotFoundError, r"checkpoint: there is no folder"),
        (folder, IsADirectoryError, r"checkpoint: is a folder"),
        ("/dev/null", OSError, r"checkpoint: is no regular file"),
        ("/proc/a", OSError, r"checkpoint: "),  # may be written, but takes no new files
        ("a\0b", ValueError, r"null (byte|character)"),
    ]
    for place, kind, text in places:
        with pytest.raises(kind, match=text):
            na.minimize(cut_at(python_rosen, 0), START, jac=True, checkpoint=place)
    assert sorted(tmp_path.iterdir()) == [folder, link]


def test_a_folder_that_fun_leaves_is_that_of_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def fun(x):
        monkeypatch.chdir("/")
        return square(x)

    na.minimize(fun, np.ones(2), jac=True, maxiter=3, checkpoint="a.run")
    assert (tmp_path / "a.run").exists()


def test_files_are_written_as_often_as_asked(tmp_path, monkeypatch):
    from numadam._minimize import checkpoint

    written = []
    monkeypatch.setattr(
        checkpoint, "write", lambda path, content: written.append(content.meta["at"]["done"])
    )
    run = {"lr": 0.02, "maxiter": 20, "gtol": 0, "checkpoint": tmp_path / "a.run"}
    for fun, jac in ((rosen, None), (python_rosen, True)):
        na.minimize(fun, START, jac=jac, checkpoint_every=7, **run)
        na.minimize(fun, START, jac=jac, **run)  # by time
        assert written == [7, 14, 20, 20]
        written.clear()
    monkeypatch.setattr(checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE", np.inf)
    na.minimize(python_rosen, START, jac=True, **run)
    assert written == [*range(20), 20]


@pytest.mark.parametrize("version", range(1, VERSION + 1))
@pytest.mark.parametrize("name", version_files.RUNS)
def test_files_of_every_version_go_on(name, version, tmp_path):
    run, _ = version_files.RUNS[name]
    path = tmp_path / "a.run"
    shutil.copy(version_files.path_of(name, version), path)
    res, whole = run(checkpoint=path), run()
    if name == "many":
        assert 0 < (whole.nit < 500).sum() < 30
        assert_same_problems(res, whole)
    else:
        assert_all_same(res, whole)

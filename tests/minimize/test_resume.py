"""Runs that go on from a state or a file: f is evaluated once where it is known, or refused."""

from __future__ import annotations

import copy
import re

import numba
import numpy as np
import pytest

import numadam as na
from numadam._minimize.checkpoint import check_objective
from tests.minimize.objectives import (
    START,
    Cut,
    assert_same_end,
    assert_same_problems,
    assert_same_run,
    cut_at,
    forms,
    python_rosen,
    run,
    square,
)


@forms
def test_a_saved_run_is_not_written_to(fun):
    half = run(fun, lr=0.02, maxiter=40)
    saved = copy.deepcopy(half.state)
    for _ in range(2):
        rest = run(fun, half.x, lr=0.02, maxiter=40, state=half.state)
        for name, value in saved.items():
            np.testing.assert_array_equal(half.state[name], value)
        assert rest.fun == python_rosen(rest.x)[0]


@forms
def test_no_best_is_carried_on_where_none_is_tracked(fun):
    half = run(fun, lr=0.02, maxiter=40)
    rest = run(fun, half.x, lr=1.0, maxiter=3, state=half.state, track_best=False)
    assert rest.fun == rest.fun_last > half.fun
    assert "fun" not in rest.state


@forms
def test_a_best_outside_of_new_bounds_is_forgotten(fun):
    half = run(fun, lr=0.02, maxiter=40)
    rest = run(fun, half.x, maxiter=3, state=half.state, bounds=[(2, 3), (2, 3)])
    assert ((rest.x >= 2) & (rest.x <= 3)).all()


@forms
def test_who_watches_a_resumed_run_sees_new_iterates_only(fun, capsys):
    half, seen = run(fun, maxiter=5), []
    run(
        fun, half.x, maxiter=3, state=half.state, progress=True,
        callback=lambda intermediate_result: seen.append(intermediate_result.nit),
    )  # fmt: skip
    assert seen == [6, 7, 8]
    assert "3/3" in capsys.readouterr().err


RESUMED = {
    "cosine": {"amsgrad": True, "lr": na.schedules.Cosine(0.5, steps=100)},
    "nadam": {"rule": "nadam", "lr": 0.02, "beta1": lambda t: 0.9 - 1e-4 * t},
}


@forms
@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("start", ["x", "x_last"])
def test_a_run_goes_on_as_if_it_had_never_stopped(fun, name, start):
    whole = run(fun, maxiter=100, **RESUMED[name])
    x, state = START, None
    for maxiter in (1, 39, 0, 60):
        part = run(fun, x, maxiter=maxiter, state=state, **RESUMED[name])
        x, state = part[start], part.state
    assert part.nit == 100
    assert part.message == whole.message
    assert_same_end(part, whole)


@forms
def test_the_first_gradient_is_that_of_the_first_run(fun):
    options = {"lr": 0.02, "gtol_rel": 1e-3}
    whole = run(fun, **options)
    half = run(fun, maxiter=200, **options)
    rest = run(fun, half.x, state=half.state, **options)
    assert (rest.nit, rest.message) == (whole.nit, whole.message)
    assert whole.state["first_grad_norm"] == abs(python_rosen(START)[1]).max()
    with pytest.raises(ValueError, match=r"norm: .* first gradient in norm=inf, got norm=2"):
        run(fun, half.x, state=half.state, norm=2, **options)
    euclidean = run(fun, half.x, state=half.state, norm=2, lr=0.02, gtol=1e-9, maxiter=3)
    gradient = python_rosen(half.x_last)[1]
    assert euclidean.state["norm"] == 2
    assert euclidean.state["first_grad_norm"] == pytest.approx(np.linalg.norm(gradient))


@forms
def test_a_state_from_a_file_goes_on(fun, tmp_path):
    state = run(fun, maxiter=5, lr=1.0).state  # lr is too large: x0 is the best
    np.savez(tmp_path / "state.npz", **state)
    with np.load(tmp_path / "state.npz") as loaded:
        res = run(fun, maxiter=1, state=dict(loaded), lr=1.0)
    whole = run(fun, maxiter=6, lr=1.0)
    assert (type(res.fun), res.fun, res.grad_norm) == (float, whole.fun, whole.grad_norm)
    np.testing.assert_array_equal(res.x, whole.x)


def test_a_new_objective_has_a_best_iterate_of_its_own():
    state = na.minimize(square, START, (0.0,), jac=True, maxiter=30).state
    run = {"jac": True, "maxiter": 30, "state": state}
    del state["x"], state["first_grad_norm"]
    res = na.minimize(square, START, (9.0,), **run)
    assert res.fun == square(res.x, 9.0)[0]


@pytest.mark.parametrize("name", ["x", "jac", "x_last"])
def test_arrays_of_another_kind_are_refused(name):
    half = na.minimize(square, np.ones(2), jac=True, maxiter=3)
    for wrong in (np.zeros(3), np.zeros(2, int), [1.0, 2.0]):
        with pytest.raises(ValueError, match=rf"state\['{name}'\]: expected the shapes and dtypes"):
            na.minimize(square, np.ones(2), jac=True, state={**half.state, name: wrong})
    for x0 in (np.ones(1), np.ones(2, np.float32), {"x": np.ones(2)}):
        with pytest.raises(ValueError, match=r"state\['x_last'\]"):
            na.minimize(square, x0, jac=True, state=half.state)
    with pytest.raises(TypeError, match=r"state=result.state"):
        na.minimize(square, np.ones(2), jac=True, state=half)


def test_the_state_of_an_optimiser_goes_on_from_x0():
    opt = na.Adam(np.ones(3), lr=0.1)
    opt.step(np.ones(3))
    res = na.minimize(square, np.full(3, 5.0), jac=True, lr=0.1, state=opt.state, maxiter=0)
    np.testing.assert_array_equal(res.x, 5.0)
    assert res.nit == 1


# --- at another objective they are refused -------------------------------------------------------


pytestmark = pytest.mark.usefixtures("quick_files")


@numba.njit
def compiled(x, g, calls, target):
    """A well around `target`, on a floor of 1; it counts its calls, and raises below 0."""
    calls[0] += 1
    if target < 0.0:
        raise Cut
    f = 1.0
    for i in range(x.size):
        f += (x[i] - target) ** 2
        g[i] = 2 * (x[i] - target)
    return f


def in_python(x, calls, target):
    g = np.empty_like(x)
    return compiled(x, g, calls, target), g


def value(x, calls, target):
    return in_python(x, calls, target)[0]


def slope(x, calls, target):
    return 2 * (x - target)


def nested(x, calls, target):
    f, g = in_python(x["a"], calls, target)
    return f, {"a": g}


@numba.njit
def of_many(x, g, i, calls, target):
    return compiled(x, g, calls, target)


def all_rows(x, calls, target):
    calls[0] += len(x)
    if target < 0.0:
        raise Cut
    return 1.0 + np.sum((x - target) ** 2, axis=1), 2 * (x - target)


ROWS = np.linspace(-2, 2, 80).reshape(40, 2)
RUNS = {
    "in Python": (na.minimize, in_python, START, {"jac": True}),
    "nested": (na.minimize, nested, {"a": START}, {"jac": True}),
    "apart": (na.minimize, value, START, {"jac": slope, "track_best": True, "gtol": 1e-12}),
    "differences": (na.minimize, value, START, {"gtol": 1e-12}),
    "compiled": (na.minimize, compiled, START, {}),
    "many in Python": (na.minimize_many, all_rows, ROWS, {"jac": True}),
    "many in lanes": (na.minimize_many, of_many, ROWS, {}),
    "few compiled": (na.minimize_many, of_many, ROWS[:3], {}),
}


def run_of(name, target=0.5, calls=None, **more):
    minimize, fun, x0, options = RUNS[name]
    calls = np.zeros(1, int) if calls is None else calls
    given = {"lr": 0.02, "maxiter": 9, "gtol": 0, **options, **more}
    return minimize(fun, x0, (calls, target), **given)


def assert_same(a, b):
    if isinstance(a, na.ManyResult):
        assert_same_problems(a, b)
        assert a.nfev == b.nfev
    elif isinstance(a.x, dict):
        np.testing.assert_array_equal(a.x["a"], b.x["a"])
        assert (a.nit, a.nfev, a.fun) == (b.nit, b.nfev, b.fun)
    else:
        assert_same_run(a, b)


@pytest.mark.parametrize("name", RUNS)
def test_the_same_objective_goes_on_and_another_is_refused(name, tmp_path):
    path, problems = (
        tmp_path / "a.run",
        len(RUNS[name][2]) if name.startswith(("many", "few")) else 1,
    )
    first = run_of(name, checkpoint=path, maxiter=5)
    content, used = path.read_bytes(), np.zeros(1, int)
    with pytest.raises(na.CheckpointError) as caught:
        run_of(name, 0.6, used, checkpoint=path)
    text = str(caught.value)
    assert text.startswith(f"fun: the run of {str(path)!r} has f=")
    assert text.endswith("delete the file; if fun is random, pass checkpoint_check=False.")
    its, mine = map(float, re.findall(r"(?:has f|got )=?([\d.e+-]+)", text))
    assert its == pytest.approx(float(np.atleast_1d(first.fun)[0]))
    assert mine != pytest.approx(its)
    assert path.read_bytes() == content
    if name != "many in lanes":  # which evaluates lanes that are not in use, too
        assert used[0] == problems

    forced = run_of(name, 0.6, checkpoint=path, checkpoint_check=False, maxiter=6)
    assert forced.message.startswith(f"Continued from {path} at iteration 5. ")
    path.write_bytes(content)
    res, whole = run_of(name, checkpoint=path), run_of(name)
    assert_same(res, whole)
    assert res.message == f"Continued from {path} at iteration 5. {whole.message}"
    again = run_of(name, checkpoint=path)
    assert_same(again, whole)
    assert again.message == f"Already finished in {path}. {whole.message}"


@pytest.mark.parametrize("name", [name for name in RUNS if RUNS[name][0] is na.minimize])
def test_a_state_is_compared_at_its_best_iterate(name):
    half = run_of(name, maxiter=5)
    calls = np.zeros(1, int)
    with pytest.raises(
        ValueError, match=r"^state: its run has f=.* at its best .*, got "
    ) as caught:
        run_of(name, 0.6, calls, state=half.state)
    assert not isinstance(caught.value, na.CheckpointError)
    assert calls[0] == 1
    rest, whole = run_of(name, maxiter=4, state=half.state), run_of(name)
    assert (rest.nit, rest.fun, rest.message) == (whole.nit, whole.fun, whole.message)
    assert rest.nfev == whole.nfev - half.nfev + half.nfev // (half.nit + 1)  # x_last once more
    run_of(name, 0.6, state=half.state, checkpoint_check=False)
    del half.state["x"]  # as one does whose objective is a new one
    run_of(name, 0.6, state=half.state)


@pytest.mark.parametrize("track_best", [None, False])
def test_where_the_last_iterate_has_no_f_the_best_is_compared(track_best, tmp_path):
    """It has none where fun raised there."""
    options = {"jac": True, "lr": 0.02, "checkpoint": tmp_path / "a.run", "maxiter": 9}
    options |= {"track_best": track_best}

    def fun(x, target=0.5):
        return np.sum((x - target) ** 2), 2 * (x - target)

    with pytest.raises(Cut):
        na.minimize(cut_at(fun, 5), START, **options)
    if track_best is None:
        with pytest.raises(na.CheckpointError, match=r"has f=\S+ at its best iterate, got"):
            na.minimize(fun, START, (0.6,), **options)
        assert na.minimize(fun, START, **options).nit == 9
    else:  # there is no f at all
        assert na.minimize(fun, START, (0.6,), **options).nit == 9


@pytest.mark.parametrize(
    "name", ["in Python", "apart", "compiled", "many in Python", "few compiled"]
)
def test_an_objective_that_raises_there_leaves_the_file(name, tmp_path):
    path = tmp_path / "a.run"
    first = run_of(name, checkpoint=path, maxiter=5)
    content = path.read_bytes()
    with pytest.raises(Cut) as caught:
        run_of(name, -1.0, checkpoint=path)
    np.testing.assert_array_equal(caught.value.numadam_result.nit, first.nit)
    assert path.read_bytes() == content


ROUNDED = [
    (np.float64, 3.0, 3.0 * (1 + 1e-5), False),
    (np.float32, 3.0, 3.0 * (1 + 1e-4), True),
    (np.float32, 3.0, 3.0 * (1 + 1e-2), False),
    (np.float64, 1e-30, 3e-30, True),  # the minimum is 0, and f there is its rounding
    (np.float64, 0.0, 1e-14, True),
    (np.float64, 0.0, 1e-9, False),
    (np.float64, np.nan, np.nan, True),
    (np.float64, np.nan, 1.0, False),
    (np.float64, np.inf, np.inf, True),
    (np.float64, np.inf, -np.inf, False),
]


@pytest.mark.parametrize(("dtype", "saved", "now", "passes"), ROUNDED)
def test_rounding_passes_and_a_change_does_not(dtype, saved, now, passes, tmp_path):
    """At the fourth evaluation f is `saved`; where the run goes on from, it is `now`."""
    given = iter([5.0, 4.0, 3.5, saved, now, *[2.0] * 9])

    def fun(x):
        return next(given), np.ones_like(x)

    run = {"jac": True, "lr": 1e-3, "gtol": 0, "checkpoint": tmp_path / "a.run"}
    na.minimize(fun, np.ones(2, dtype), maxiter=3, **run)
    if passes:
        assert na.minimize(fun, np.ones(2, dtype), maxiter=5, **run).nit >= 3
    else:
        with pytest.raises(na.CheckpointError, match=r"^fun: the run of .* has f="):
            na.minimize(fun, np.ones(2, dtype), maxiter=5, **run)


def test_an_infinite_first_gradient_leaves_no_room():
    """Nor does one that is not known."""
    for change in (np.inf, np.nan):
        with pytest.raises(ValueError, match=r"got 1 there"):
            check_objective(0.0, 1.0, change, np.dtype(float), "there", None)


@numba.njit
def shifted(x, g, center, constant, sign):
    """A square around a center, upon a constant."""
    f = constant
    for i in range(x.size):
        f += (x[i] - center[i]) ** 2
        g[i] = sign * 2 * (x[i] - center[i])
    return f


def python_shifted(x, center, constant, sign):
    d = x - center
    return constant + np.sum(d * d, axis=-1), sign * 2 * d


CHANGES = {
    "compiled": (na.minimize, shifted, None, (2,)),
    "in Python": (na.minimize, python_shifted, True, (2,)),
    "lanes": (na.minimize_many, shifted, None, (30, 2)),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("maxiter", [5, 1000])  # at its midst, and finished
def test_a_mended_gradient_and_a_small_change_of_a_large_f_are_noticed(name, maxiter, tmp_path):
    minimize, fun, jac, shape = CHANGES[name]
    center, path = np.array([1.0, 2.0]), tmp_path / "a.run"
    run = {"jac": jac, "lr": 0.1, "maxiter": maxiter}
    before = minimize(fun, np.zeros(shape), (center, 1e6, 1.0), checkpoint=path, **run)
    others = [(center + 0.01, 1e6, 1.0), (center, 1e6 + 0.1, 1.0), (center, 1e6, -1.0)]
    for other in others:
        with pytest.raises(
            na.CheckpointError, match=r"^fun: the run of .*fun or args have changed"
        ):
            minimize(fun, np.zeros(shape), other, checkpoint=path, **run)
        if minimize is na.minimize:
            with pytest.raises(ValueError, match=r"^state: its run has .*have changed"):
                minimize(fun, np.zeros(shape), other, state=before.state, **run)
    after = minimize(fun, np.zeros(shape), (center, 1e6, 1.0), checkpoint=path, **run)
    np.testing.assert_array_equal(after.x, before.x)


def test_the_problem_is_named(tmp_path):
    targets = np.linspace(0.0, 1.0, 30)

    def fun(x, targets):
        return (x[:, 0] - targets) ** 2, 2 * (x - targets[:, None])

    run = {"jac": True, "lr": 0.1, "checkpoint": tmp_path / "a.run"}
    na.minimize_many(fun, np.zeros((30, 1)), (targets,), maxiter=3, **run)
    targets[17] = 2.0
    with pytest.raises(na.CheckpointError, match=r"has f=\S+ in problem 17, got \S+ there"):
        na.minimize_many(fun, np.zeros((30, 1)), (targets,), maxiter=6, **run)


@pytest.mark.parametrize("name", ["in Python", "compiled"])
def test_a_refused_run_leaves_the_schedule(name, tmp_path):
    path, lr = tmp_path / "a.run", na.schedules.ReduceOnPlateau(0.02, patience=1, factor=0.5)
    run_of(name, checkpoint=path, lr=copy.deepcopy(lr))
    mine = copy.deepcopy(lr)
    with pytest.raises(na.CheckpointError, match=r"^fun: "):
        run_of(name, 0.6, checkpoint=path, lr=mine)
    assert mine == lr


def test_a_start_that_is_not_finite_is_told_with_its_file(tmp_path):
    def fun(x):
        return np.nan, x

    run = {"jac": True, "checkpoint": tmp_path / "a.run"}
    text = "f is not finite at the start, x0."
    assert na.minimize(fun, np.ones(2), **run).message == text
    found = f"Already finished in {tmp_path / 'a.run'}. "
    assert na.minimize(fun, np.ones(2), **run).message == found + text


@pytest.mark.parametrize("name", ["in Python", "many in Python"])
def test_the_argument_is_true_or_false(name):
    with pytest.raises(TypeError, match=r"checkpoint_check: expected True or False, got 'no'"):
        run_of(name, checkpoint_check="no")

"""Results: SciPy's class with documented attributes, and messages that say what kept a run.

And SciPy's conventions: its call as it is, its bounds, and numadam as a method of its own.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import get_args

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, minimize, rosen_der
from scipy.optimize import rosen as scipy_rosen

import numadam as na
from numadam._core.hyper import GradientStatus
from numadam._core.options import DEFAULTS
from tests import stubs
from tests.minimize.objectives import START, Counted, python_rosen, rosen, square


def one(**options):
    return na.minimize(square, np.ones(2), jac=True, **{"maxiter": 3, **options})


def many(**options):
    return na.minimize_many(
        lambda x: ((x * x).sum(axis=1), 2 * x), np.ones((4, 2)), jac=True, maxiter=3, **options
    )


each = pytest.mark.parametrize("make", [one, many])


#: Entries of `least_squares_many` alone.
OF_FITS = {"cost", "optimality", "cov", "stderr", "agreed", "residuals", "jacobian"}


def test_every_entry_is_declared_and_every_declared_one_is_there():
    found = one(ema=0.9, lr="auto", maxiter=20)
    assert found.keys() | {"index", *OF_FITS} == na.Result.__annotations__.keys()
    assert many().keys() | {"averaged", "njev", *OF_FITS} == na.ManyResult.__annotations__.keys()
    assert many().best().keys() <= na.Result.__annotations__.keys()


@each
def test_an_entry_is_an_attribute_and_both_change_together(make):
    result = make()
    assert isinstance(result, OptimizeResult)
    for name in result:
        assert getattr(result, name) is result[name]
    result.message = "new"
    assert result["message"] == "new"
    result["nfev"] = 7
    assert result.nfev == 7
    del result.nfev
    assert "nfev" not in result


MISSING = [
    (one, "hess_inv", "second derivatives"),
    (one, "lr", 'lr="auto"'),
    (many, "state", "checkpoint=path"),
    (many, "averaged", "ema="),
    (many, "nitt", "it has"),
]


@pytest.mark.parametrize(("make", "name", "says"), MISSING, ids=range(len(MISSING)))
def test_a_missing_entry_says_what_there_is_and_what_to_do(make, name, says):
    result = make()
    with pytest.raises(AttributeError, match=f"^{name}: this result has none.*{says}") as error:
        getattr(result, name)
    assert (error.value.name, error.value.obj) == (name, result)
    assert getattr(result, name, 5) == 5
    assert not hasattr(result, "__array_interface__")


def test_a_number_as_key_says_where_a_problem_is():
    with pytest.raises(KeyError, match=r"problem 3 is at res.x\[3\]"):
        many()[3]
    with pytest.raises(KeyError, match=r"^'f'$"):
        many()["f"]
    assert many().get("f") is None


@each
def test_copies_and_pickles_are_of_the_class(make):
    result = make()
    for other in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert type(other) is type(result)
        assert repr(other) == repr(result)
        np.testing.assert_array_equal(other.x, result.x)
    assert type(copy.copy(result)) is {one: na.Result, many: na.ManyResult}[make]


@pytest.mark.parametrize("kind", [na.Result, na.ManyResult, na.GradientCheck])
def test_every_entry_has_a_text_and_a_type_in_the_docstring(kind):
    # plain Python and IPython without jedi complete by the class
    public = {name for name in dir(kind) if not name.startswith("_")}
    assert public - {"best"} == kind.__annotations__.keys()
    text = inspect.getdoc(kind)
    assert re.findall(r"^(\w+) : \S.*\n    \S", text, re.MULTILINE) == [*kind.__annotations__]


KEYWORDS = stubs.keywords(stubs.rule_classes())


@pytest.mark.option
@pytest.mark.parametrize(
    ("function", "kind"), [(na.minimize, "MinimizeOptions"), (na.minimize_many, "ManyOptions")]
)
def test_keywords_in_the_signature_are_no_arguments_besides(function, kind):
    arguments = inspect.signature(inspect.unwrap(function)).parameters
    given = [part for part in arguments.values() if part.kind is not part.VAR_KEYWORD]
    named = {part.name for part in given}
    assert not named & KEYWORDS[kind].keys()


@pytest.mark.parametrize(
    ("function", "kind"), [(na.minimize, "MinimizeOptions"), (na.minimize_many, "ManyOptions")]
)
def test_the_signature_names_shared_options_for_completion(function, kind):
    named = inspect.signature(function).parameters
    shared = {name for name in KEYWORDS[kind] if name in DEFAULTS}
    assert shared <= named.keys()
    assert all(named[name].default == DEFAULTS[name] for name in shared)
    assert named.keys() - shared == inspect.signature(inspect.unwrap(function)).parameters.keys()


def test_many_problems_take_the_options_of_their_signature():
    of_one, of_many = KEYWORDS["MinimizeOptions"], KEYWORDS["ManyOptions"]
    assert of_one.keys() - of_many.keys() == {"ema_debias"}
    with pytest.raises(ValueError, match=r"^ema_debias: problems stop at different iterations"):
        many(ema=0.9, ema_debias=True)


def test_the_check_of_a_gradient_is_such_a_result():
    check = na.check_grad(square, np.ones(2), jac=True)
    assert isinstance(check, na.GradientCheck)
    assert check.keys() == na.GradientCheck.__annotations__.keys()
    assert dir(check) == sorted(check)
    assert check.status in get_args(GradientStatus)
    assert pickle.loads(pickle.dumps(check)) == check
    with pytest.raises(AttributeError, match="success: this result has none; it has ok"):
        _ = check.success


# --- messages at maxiter -------------------------------------------------------------------------

PLAIN = "The number of iterations has reached maxiter."
SLOW = "Most elements of x moved one way, by the full lr in nearly every iteration"
ABOVE = "f stayed above its first value"
CIRCLES = "In the second half of the run neither f nor the gradient fell"
HINTS = re.compile(f"{SLOW}|{ABOVE}|{CIRCLES}")


def bowl(x):
    return float(np.sum((x - 3) ** 2)), 2 * (x - 3)


def wrong_sign(x):
    f, g = bowl(x)
    return f, -g


def edge(x):
    """Its gradient is as large next to the minimum as far from it."""
    return float(np.abs(x - 0.3).sum()), np.sign(x - 0.3)


class Noisy:
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, x):
        f, g = bowl(x)
        return f + self.rng.standard_normal(), g + self.rng.standard_normal(x.shape)


def height(x):
    return bowl(x)[0]


def slope(x):
    return bowl(x)[1]


def ill_conditioned(x):
    weights = np.logspace(0, 4, x.size, dtype=x.dtype)
    return float(np.sum(weights * (x - 1) ** 2) / 2), weights * (x - 1)


def message(fun, x0, jac=True, **options):
    res = na.minimize(fun, x0, jac=jac, **{"gtol": 0, "maxiter": 500, **options})
    assert res.status == 1
    assert res.message.startswith(PLAIN)
    return res.message.removeprefix(PLAIN).strip()


FIVE = np.zeros(5)

SAID = [
    (bowl, FIVE, {"lr": 1e-3, "maxiter": 20, "history": False}, SLOW),
    (bowl, FIVE, {"lr": na.schedules.Cosine(1e-3, steps=500)}, SLOW),
    (height, FIVE, {"lr": 1e-3, "jac": slope}, SLOW),
    (lambda x: (bowl(x["a"])[0], {"a": bowl(x["a"])[1]}), {"a": FIVE}, {"lr": 1e-3}, SLOW),
    (lambda z: (abs(z - 3 - 4j) ** 2, 2 * (z - 3 - 4j)), np.zeros((), complex), {"lr": 1e-3}, SLOW),
    (python_rosen, START, {"lr": 1e-5}, SLOW),
    (rosen, START, {"lr": 1e-5, "jac": None}, SLOW),
    (wrong_sign, FIVE, {"lr": 0.01}, ABOVE),
    (python_rosen, START, {"lr": 100.0}, ABOVE),
    (edge, FIVE, {"lr": 0.1, "maxiter": 3000}, CIRCLES),
    (bowl, FIVE, {"lr": 0.1, "rule": "lion"}, CIRCLES),
    (Noisy(), FIVE, {"lr": 0.1, "maxiter": 2000}, CIRCLES),
]


@pytest.mark.parametrize(("fun", "x0", "options", "says"), SAID, ids=range(len(SAID)))
def test_a_run_that_got_stuck_says_how(fun, x0, options, says):
    said = message(fun, x0, **options)
    assert said.startswith(says)
    assert ("(numadam.check_grad)" in said) == (says is ABOVE)


GOOD = [
    (bowl, FIVE, {"lr": 0.01}),
    (bowl, FIVE, {"lr": 0.1}),
    (bowl, FIVE, {"lr": na.schedules.Cosine(0.1, steps=500)}),
    (bowl, FIVE, {"lr": 0.01, "rule": "sgd"}),
    (bowl, FIVE, {"lr": 1e-3, "maxiter": 19}),  # too short for a judgement
    (bowl, FIVE, {"lr": 0.1, "history": False}),
    (edge, FIVE, {"lr": na.schedules.Cosine(0.1, steps=500)}),
    (python_rosen, START, {"lr": 0.01}),
    (ill_conditioned, np.zeros(20), {"lr": 0.01}),
    (Noisy(), FIVE, {"lr": na.schedules.Cosine(0.1, steps=500)}),
]


@pytest.mark.parametrize(("fun", "x0", "options"), GOOD, ids=range(len(GOOD)))
def test_a_good_run_says_nothing(fun, x0, options):
    assert not HINTS.search(message(fun, x0, **options))


def test_a_resumed_run_is_not_measured_from_x0():
    half = na.minimize(bowl, FIVE, jac=True, lr=1e-3, maxiter=100)
    assert message(bowl, FIVE, lr=1e-3, state=half.state, maxiter=100) == ""


def test_other_ends_have_their_message_alone():
    at_nan = na.minimize(bowl, [1.0, np.nan], jac=True).message
    assert at_nan == "f is not finite at the start, x0, which holds NaN or infinite numbers."
    nested = na.minimize(lambda x: (np.inf, x), {"a": np.ones(2)}, jac=True).message
    assert nested == "f is not finite at the start, x0."
    assert "lr is 0" in na.minimize(bowl, FIVE, jac=True, lr=0.0, maxiter=30).message
    good = na.minimize(bowl, FIVE, jac=True, lr=0.1)
    assert good.success
    assert "lr" not in good.message


# --- SciPy's call ---------------------------------------------------------------------------------


def test_scipys_call_runs_as_it_is():
    """Every argument of SciPy's, empty or with the same meaning."""
    ours = na.minimize(python_rosen, START, jac=True, maxiter=50, gtol=1e-3, beta1=0.8, lr=0.02)
    scipys = na.minimize(
        python_rosen, START, (), method=None, jac=True, hess=None, hessp=None, bounds=None,
        constraints=(), tol=1e-3, callback=None,
        options={"maxiter": 50, "disp": False, "maxfun": None, "beta1": 0.8, "lr": 0.02},
    )  # fmt: skip
    np.testing.assert_array_equal(scipys.x, ours.x)
    assert (scipys.nit, scipys.message) == (ours.nit, ours.message)


@pytest.mark.parametrize("many", [False, True])
def test_disp_prints_the_outcome(capsys, many):
    run = na.minimize_many if many else na.minimize
    f = (lambda X: (np.sum(X**2, 1), 2 * X)) if many else (lambda x: (np.sum(x**2), 2 * x))
    run(f, np.ones((2, 2)), jac=True, maxiter=3, disp=True)
    assert ("problems: 2" if many else "maxiter.\n  f: 3.7") in capsys.readouterr().out
    run(f, np.ones((2, 2)), jac=True, maxiter=3, disp=False)
    assert not capsys.readouterr().out


def test_a_rule_of_the_users_may_have_such_an_option():
    class Steps(na.SGD):
        def __init__(self, params, lr=0.1, *, n_steps=1, **shared):
            self._of_user = n_steps
            super().__init__(params, lr, **shared)

    run = {"jac": True, "rule": Steps, "maxiter": 3}
    assert na.minimize(python_rosen, START, n_steps=2, lr=1e-3, **run).nit == 3
    with pytest.raises(TypeError, match=r"num_steps: .*maxiter"):
        na.minimize(python_rosen, START, num_steps=2, **run)


# --- bounds --------------------------------------------------------------------------------------

BOUNDS = [
    None,
    [(None, 0.5), (-2.0, 2.0)],
    Bounds([-np.inf, -2.0], [0.5, 2.0]),
    Bounds(-np.inf, 0.5),
]


@pytest.mark.parametrize("bounds", BOUNDS, ids=range(len(BOUNDS)))
def test_bounds_as_scipy_reads_them_also_for_its_method(bounds):
    jac = Counted(rosen_der)
    own, res = na.minimize(scipy_rosen, START, jac=jac, lr=0.02, bounds=bounds), run(bounds=bounds)
    if bounds is not None:
        np.testing.assert_allclose(own.x, [0.5, 0.25], atol=1e-5)
        assert all(x[0] <= 0.5 for x in jac.seen)
    np.testing.assert_array_equal(res.x, own.x)
    np.testing.assert_array_equal(res.x_last, own.x_last)
    assert (res.success, res.nit, res.nfev) == (True, own.nit, own.nfev)


def test_x0_outside_is_moved_in_before_the_first_gradient():
    fun = Counted(square)
    na.minimize(fun, [5.0, -5.0, 0.0], jac=True, bounds=(1, 2), maxiter=1)
    np.testing.assert_array_equal(fun.seen[0], [2, 1, 1])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_two_numbers_bound_all_elements_and_gtol_looks_at_the_projected_gradient(n):
    res = na.minimize(square, np.zeros(n), (9.0,), jac=True, bounds=(None, 2), lr=0.1)
    assert res.success
    assert (res.x == 2).all()
    assert abs(res.jac).min() > 1


# --- the method ----------------------------------------------------------------------------------


def run(fun=scipy_rosen, x0=START, jac=rosen_der, **kwargs):
    kwargs.setdefault("options", {"lr": 0.02})
    return minimize(fun, x0, jac=jac, method=na.scipy_adam, **kwargs)


def test_a_fun_that_returns_both_is_called_once_at_each_x():
    fun = Counted(python_rosen)
    res = run(fun, jac=True)
    assert not fun.twice
    assert res.nfev == res.njev == len(fun.seen)


@pytest.mark.parametrize("jac", [None, "3-point"])
def test_without_a_gradient_differences_are_taken(jac):
    fun = Counted(scipy_rosen)
    res = run(fun, jac=jac, options={"lr": 0.02, "maxiter": 10})
    assert res.nfev == len(fun.seen) == 33


def test_callbacks_in_both_protocols():
    seen = []

    def by_name(intermediate_result):
        seen.append(intermediate_result.fun)
        if len(seen) == 4:
            raise StopIteration

    res = run(callback=by_name)
    assert (res.status, res.success, res.nit) == (99, False, 4)
    assert res.message == "`callback` raised `StopIteration`."
    xs = []
    run(callback=xs.append, options={"maxiter": 3})
    assert len(xs) == 3
    assert not np.shares_memory(xs[0], xs[1])


def test_options_args_and_float32(capsys):
    res = run(
        lambda x, a: (float(np.sum((x - a) ** 2)), 2 * (x - a)),
        np.ones(3, np.float32),
        jac=True,
        args=(np.float32(0.5),),
        options={"rule": "adamw", "lr": 0.1, "maxiter": 7, "disp": True},
    )
    assert res.nit == 7
    assert res.x.dtype == np.float32
    assert "iterations: 7" in capsys.readouterr().out
    assert 1e-6 < run(tol=1e-2).grad_norm <= 1e-2


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="constraints"):
        run(constraints=LinearConstraint([[1, 1]], 0, 1))
    with pytest.warns(RuntimeWarning, match="does not use hess"):
        run(hess=lambda x: np.eye(2), options={"maxiter": 1})
    with pytest.raises(TypeError, match="maxitre"):
        run(options={"maxitre": 1})

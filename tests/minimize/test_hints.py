"""Messages at maxiter: what kept a run from a minimum is said, and nothing of a good run."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.optimize import rosen as rosenbrock
from scipy.optimize import rosen_der

import numadam as na
from tests.minimize.objectives import START, python_rosen, rosen

PLAIN = "The number of iterations has reached maxiter."
SLOW = "Most elements of x moved one way, by the full lr in nearly every iteration"
RISING = "f rose in 100% of the iterations, from 45 to"
ABOVE = "f stayed above its first value"
CIRCLES = "In the second half of the run neither f nor the gradient fell"
HINTS = re.compile(f"{SLOW}|f rose in|{ABOVE}|{CIRCLES}")


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


def valley(x):
    return rosenbrock(x), rosen_der(x)


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
    (bowl, FIVE, {"lr": 1e-5}, SLOW),
    (bowl, FIVE, {"lr": 1e-3}, SLOW),
    (bowl, FIVE, {"lr": 1e-3, "maxiter": 20, "history": False}, SLOW),
    (bowl, FIVE, {"lr": na.schedules.Cosine(1e-3, steps=500)}, SLOW),
    (bowl, FIVE, {"lr": np.full(5, 1e-3)}, SLOW),
    (height, FIVE, {"lr": 1e-3, "jac": slope}, SLOW),
    (bowl, [0, 0, 0, 0, 0], {"lr": 1e-3, "rule": "nadam"}, SLOW),
    (lambda x: (bowl(x["a"])[0], {"a": bowl(x["a"])[1]}), {"a": FIVE}, {"lr": 1e-3}, SLOW),
    (lambda z: (abs(z - 3 - 4j) ** 2, 2 * (z - 3 - 4j)), np.zeros((), complex), {"lr": 1e-3}, SLOW),
    (valley, START, {"lr": 1e-5}, SLOW),
    (wrong_sign, FIVE, {"lr": 0.01}, RISING),
    (wrong_sign, FIVE, {"lr": 1.0, "rule": "lion"}, RISING),
    (valley, START, {"lr": 100.0}, ABOVE),
    (bowl, np.full(5, 2.9), {"lr": 3.0, "rule": "lion"}, CIRCLES),
    (edge, FIVE, {"lr": 1.0, "rule": "lion"}, CIRCLES),
    (edge, FIVE, {"lr": 0.1, "maxiter": 3000}, CIRCLES),
    (bowl, FIVE, {"lr": 0.1, "rule": "lion"}, CIRCLES),
    (height, FIVE, {"lr": 0.1, "rule": "lion", "jac": slope}, CIRCLES),
    (Noisy(), FIVE, {"lr": 0.1, "maxiter": 2000}, CIRCLES),
]


@pytest.mark.parametrize(("fun", "x0", "options", "says"), SAID, ids=range(len(SAID)))
def test_a_run_that_got_stuck_says_how(fun, x0, options, says):
    assert message(fun, x0, **options).startswith(says)


def test_a_message_names_the_check_of_the_gradient():
    assert "(numadam.check_grad)" in message(wrong_sign, FIVE, lr=0.01)
    assert "(numadam.check_grad)" in message(valley, START, lr=100.0)


GOOD = [
    (bowl, FIVE, {"lr": 0.01}),
    (bowl, FIVE, {"lr": 0.1}),
    (bowl, FIVE, {"lr": 0.1, "maxiter": 600}),
    (bowl, FIVE.astype("f4"), {"lr": 0.03}),
    (bowl, FIVE, {"lr": na.schedules.Cosine(0.1, steps=500)}),
    (bowl, FIVE, {"lr": 0.01, "rule": "sgd"}),
    (height, FIVE, {"lr": 0.1, "jac": slope}),
    (bowl, FIVE, {"lr": 1e-3, "maxiter": 19}),  # too short for a judgement
    (bowl, FIVE, {"lr": 0.1, "history": False}),
    (edge, FIVE, {"lr": na.schedules.Cosine(0.1, steps=500)}),
    (valley, START, {"lr": 0.01}),
    (valley, START, {"lr": 0.01, "maxiter": 3000}),
    (ill_conditioned, np.zeros(20), {"lr": 0.01}),
    (ill_conditioned, np.zeros(20, "f4"), {"lr": 0.003}),
    (Noisy(), FIVE, {"lr": na.schedules.Cosine(0.1, steps=500)}),
    (Noisy(), FIVE, {"lr": 0.01, "maxiter": 300}),
    (python_rosen, START, {"lr": 0.02, "rule": "adamw"}),
]


@pytest.mark.parametrize(("fun", "x0", "options"), GOOD, ids=range(len(GOOD)))
def test_a_good_run_says_nothing(fun, x0, options):
    assert not HINTS.search(message(fun, x0, **options))


def test_a_schedule_is_not_advised_to_who_has_one():
    early = na.schedules.Cosine(0.1, steps=5000)
    assert message(Noisy(), FIVE, lr=early).endswith("or one that falls further.")


def test_a_compiled_objective_says_it_too():
    assert message(rosen, START, jac=None, lr=1e-5).startswith(SLOW)
    assert not HINTS.search(message(rosen, START, jac=None, lr=0.01))


def test_a_resumed_run_is_not_measured_from_x0():
    half = na.minimize(bowl, FIVE, jac=True, lr=1e-3, maxiter=100)
    assert message(bowl, FIVE, lr=1e-3, state=half.state, maxiter=100) == ""


def test_a_start_that_is_not_finite_is_named():
    at_nan = na.minimize(bowl, [1.0, np.nan], jac=True).message
    assert at_nan == "f is not finite at the start, x0, which holds NaN or infinite numbers."
    nested = na.minimize(lambda x: (np.inf, x), {"a": np.ones(2)}, jac=True).message
    assert nested == "f is not finite at the start, x0."


def test_a_learning_rate_of_0_is_named():
    assert "lr is 0" in na.minimize(bowl, FIVE, jac=True, lr=0.0, maxiter=30).message


def test_other_ends_have_their_message_alone():
    res = na.minimize(bowl, FIVE, jac=True, lr=0.1)
    assert res.success
    assert "lr" not in res.message

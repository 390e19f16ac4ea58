"""Hyperparameters of Adam, RMSprop and SGD that are refused by name, and those that are taken."""

from __future__ import annotations

import re

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits

BAD = [
    (na.Adam, "lr", [-1e-9, np.inf, np.nan, -0.1]),
    (na.Adam, "beta1", [-0.1, 1.0, 1.5, np.nan]),
    (na.Adam, "beta2", [-0.1, 1.0, 1.0001, np.nan]),
    (na.Adam, "eps", [-1e-8, np.inf, np.nan]),
    (na.RMSprop, "lr", [-1.0, np.nan]),
    (na.RMSprop, "beta2", [-0.1, 1.0, np.nan]),
    (na.RMSprop, "eps", [-1e-8, np.inf, np.nan]),
    (na.SGD, "lr", [-1.0, np.inf]),
    (na.SGD, "momentum", [-0.1, 1.0, np.nan]),
]
ROWS = [(rule, name, value) for rule, name, values in BAD for value in values]


@pytest.mark.parametrize(("rule", "name", "value"), ROWS)
def test_out_of_range_is_refused_by_name(rule, name, value):
    with pytest.raises(ValueError, match=rf"^{name}: .*{re.escape(repr(value))}"):
        rule(np.ones(3), **{name: value})


@pytest.mark.parametrize(
    ("rule", "name"),
    [(na.Adam, "lr"), (na.Adam, "beta1"), (na.RMSprop, "eps"), (na.SGD, "momentum")],
)
@pytest.mark.parametrize("value", ["0.1x", None, [0.1], np.ones(2), 1j])
def test_not_a_number_is_refused_by_name(rule, name, value):
    if name == "lr" and np.ndim(value):
        # these are step sizes of elements or arrays, of a shape that does not fit
        with pytest.raises((TypeError, ValueError), match=r"^lr: expected a number or an array"):
            rule(np.ones(3), lr=np.array([0.1, 0.1]))
        return
    if value is None and name == "momentum":
        value = "no"
    with pytest.raises(TypeError, match=f"^{name}: expected a number"):
        rule(np.ones(3), **{name: value})


@pytest.mark.parametrize("value", ["Hat", "", None, 1])
def test_eps_form_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^eps_form: expected 'paper' or 'hat'"):
        na.Adam(np.ones(3), eps_form=value)


def test_beta2_one_only_in_the_hat_form():
    with pytest.raises(ValueError, match=r"^beta2: .*eps_form='hat'"):
        na.Adam(np.ones(3), beta2=1.0)
    p = np.ones(3)
    opt = na.Adam(p, lr=0.1, beta2=1.0, eps_form="hat")
    opt.step(np.full(3, 2.0))  # sqrt(c2) = 0: scikit-learn's rule does not move
    assert np.array_equal(p, np.ones(3))
    assert np.array_equal(opt.state["v"], np.zeros(3))


def test_hyperparameters_may_be_numpy_scalars_and_0d_arrays():
    p, q = np.ones(3), np.ones(3)
    opt = na.Adam(p, lr=np.float32(0.5), beta1=np.array(0.5), beta2=np.float64(0.5), eps=1)
    other = na.Adam(q, lr=0.5, beta1=0.5, beta2=0.5, eps=1.0)
    opt.step(p.copy())
    other.step(q.copy())
    assert_same_bits(p, q)


def test_options_are_keyword_only_and_known():
    for rule in (na.Adam, na.RMSprop, na.SGD):
        with pytest.raises(TypeError):
            rule(np.ones(3), 0.1, 0.9)
        with pytest.raises(TypeError):
            rule(np.ones(3), learning_rate=0.1)
    with pytest.raises(ValueError, match=r"^nesterov: "):
        na.SGD(np.ones(3), nesterov=True)

"""Options of a rule that contradict each other are refused by name, before anything is made."""

import numpy as np
import pytest

import numadam as na

REFUSED = [
    (na.SGD, {"nesterov": True}, "nesterov: needs momentum > 0"),
    (na.SGD, {"dampening": 0.1}, "dampening: needs momentum > 0"),
    (na.SGD, {"momentum": 0.9, "nesterov": True, "dampening": 0.1}, "dampening: nesterov=True has"),
    (na.Adam, {"eps_form": "norm"}, "eps_form: expected 'paper' or 'hat', got 'norm'"),
    (na.Adam, {"amsgrad": 2}, "amsgrad: expected True, False, .*, got 2"),
    (na.Adam, {"beta2": 1.0}, "beta2: 1.0 is only possible with eps_form='hat'"),
    (na.Adam, {"like": "keras", "eps_form": "paper"}, "eps_form: like='keras' repeats the hat"),
    (na.Adam, {"eps_form": "hat", "amsgrad": "vhat"}, "amsgrad: 'vhat' corrects v first"),
    (na.Adam, {"like": "numpy", "eps_form": "hat"}, "eps_form: like='numpy' divides as in the"),
    (na.RAdam, {"eps_form": "norm"}, "eps_form: expected 'paper' or 'hat', got 'norm'"),
    (na.AdaMax, {"eps_form": "hat"}, "eps_form: expected 'norm' or 'denominator', got 'hat'"),
    (na.Adagrad, {"initial_accumulator": lambda t: 0.1}, "initial_accumulator: is used once"),
]


@pytest.mark.parametrize(("rule", "options", "problem"), REFUSED)
def test_options_that_contradict_each_other(rule, options, problem):
    p = np.array([-2.0, 3.0])
    with pytest.raises(ValueError, match=f"^{problem}"):
        rule(p, bounds=(0.0, 1.0), **options)
    assert p.tolist() == [-2.0, 3.0]


def test_a_dampened_step_needs_its_number():
    p, m = np.ones(2), np.zeros(2)
    with pytest.raises(ValueError, match=r"^t: dampening needs the number of this step"):
        na.sgd_update(p, np.ones(2), m, momentum=0.9, dampening=0.5)
    assert p.tolist() == [1.0, 1.0]
    assert m.tolist() == [0.0, 0.0]


def test_the_start_of_a_state_is_no_option_of_a_group():
    params = {"a": np.ones(2), "b": np.ones(2)}
    with pytest.raises(ValueError, match=r"^groups: .* sets the start of the state, .* opt.state"):
        na.Adagrad(params, groups={"b": {"initial_accumulator": 9.0}})


def test_the_start_of_a_state_is_no_option_of_an_update_function():
    p = np.ones(2)
    with pytest.raises(TypeError, match=r"^adagrad_update: initial_accumulator needs arrays"):
        na.adagrad_update(p, p.copy(), np.zeros(2), initial_accumulator=1.0)
    assert p.tolist() == [1.0, 1.0]

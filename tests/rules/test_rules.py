"""Adam, RMSprop and SGD bit for bit, numbers at the edges, and options that are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.bits import DTYPES, RULES, STEPS, assert_same_bits, extremes, gradients, starts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_bits(name, dtype):
    """Bit for bit the written expression, with -0.0, overflow, inf and NaN: all propagate."""
    make, bits = RULES[name]
    grads = np.concatenate([gradients(dtype), extremes(dtype)], axis=1)
    p = starts(dtype, grads.shape[1])
    expected, state = p.copy(), {}
    opt = make(p, 0.01)
    for t, g in enumerate(grads, 1):
        opt.step(g)
        expected = bits(expected, g, t, state, 0.01)
        assert_same_bits(p, expected, f"p after step {t}")
        for key, value in state.items():
            assert_same_bits(opt.state[key], value, f"{key} after step {t}")
    assert set(opt.state) == {"t", *state}
    assert opt.t == STEPS
    assert np.isnan(p).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_at_large_t(dtype):
    """1 - beta**t is formed with Python's power, at every t, also where it has become 1."""
    make, bits = RULES["adam hat"]
    for t in [999, 12_345, 10**6, 2**31, 2**40]:
        p = np.linspace(-1, 1, 9, dtype=dtype)
        g = np.linspace(1, 2, 9, dtype=dtype)
        state = {"m": g / 2, "v": g * 2}
        opt = make(p, 0.01)
        opt.state = {"t": t - 1, **state}
        expected = bits(p.copy(), g, t, state, 0.01)
        opt.step(g)
        assert_same_bits(p, expected)
        assert opt.t == t


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["adam paper eps 0", "adam hat eps 0", "rmsprop eps 0"])
def test_zero_denominator_does_not_move(name, dtype):
    make, _ = RULES[name]
    info = np.finfo(dtype)
    p = np.array([1.0, -0.0, 0.0, 2.0, np.inf, 3.0], dtype)
    g = np.array([0.0, 0.0, -0.0, 0.0, 0.0, info.smallest_subnormal], dtype)  # g*g is 0 in all
    before = p.copy()
    opt = make(p, 0.5)
    for _ in range(3):
        opt.step(g)
    assert_same_bits(p, before)
    assert opt.t == 3
    if "m" in opt.state:  # a first moment that lasts longer than v: still no move
        opt.state["m"] = np.ones(6, dtype)
        opt.step(np.zeros(6, dtype))
        assert_same_bits(p, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_lr_zero(name, dtype):
    """The parameters stay to the bit, the state moves."""
    make, bits = RULES[name]
    g = gradients(dtype, 30)[0]
    p = starts(dtype, 30)
    before, state = p.copy(), {}
    opt = make(p, 0.0)
    opt.step(g)
    bits(before, g, 1, state, 0.0)
    assert np.array_equal(p, before)
    assert_same_bits(p[2:], before[2:])
    for key, value in state.items():
        assert_same_bits(opt.state[key], value)
    assert opt.t == 1


# --- options that contradict each other -----------------------------------------------------------


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

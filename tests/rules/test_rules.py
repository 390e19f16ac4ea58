"""Adam, RMSprop and SGD bit for bit, numbers at the edges, and options that are refused by name.

A factor of 0 is no memory: what was infinite is forgotten, where NumPy has 0 * inf = NaN.
"""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam import nopython
from tests import extras
from tests.bits import DTYPES, KERNELS, RULES, STEPS, assert_same_bits, extremes, gradients, starts


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float64") for name in RULES]
    + [(name, "float32") for name in KERNELS]
    + [extras.sweep(name, "float32") for name in RULES if name not in KERNELS],
)
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


@pytest.mark.parametrize("dtype", ["float64", extras.sweep("float32")])
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


# --- options that contradict each other ----------------------------------------------------------


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


# --- factors of zero -----------------------------------------------------------------------------


HUGE = {"float32": 1e30, "float64": 1e200, "complex64": 1e30 + 1e30j}
KINDS = [
    (na.Adam, {"eps_form": "hat", "nesterov": True}),
    (na.Adam, {"like": "numpy"}),
    (na.Adam, {"like": "sklearn"}),
    (na.AdamW, {}),
    (na.NAdam, {}),
    (na.RAdam, {}),
    (na.AdaBelief, {}),
    (na.RMSprop, {}),
]
NO_MEMORY = {"beta2": 0.0}


def falls_to_zero(taken):
    return 0.9 if taken < 1 else 0.0


@pytest.mark.parametrize(
    ("kind", "options", "dtype"),
    [
        (na.Adam, {}, "float32"),
        extras.sweep(na.RMSprop, {"momentum": 0.9, "centered": True}, "float32"),
        *(extras.sweep(kind, options, "float32") for kind, options in KINDS),
        extras.sweep(na.Adam, {}, "float64"),
        extras.sweep(na.Adam, {}, "complex64"),
        extras.sweep(na.AdaBelief, {}, "float64"),
    ],
)
@pytest.mark.parametrize("beta2", [0.0, falls_to_zero])
def test_an_infinite_square_is_forgotten(kind, options, beta2, dtype):
    x, fresh = np.zeros(70, dtype), np.zeros(70, dtype)
    opt, twin = (kind(p, lr=0.1, **{**options, "beta2": beta2}) for p in (x, fresh))
    twin.state["v"][...] = 0.0
    g = np.full(70, 2.0, dtype)
    for one, first in ((opt, HUGE[dtype]), (twin, 0.0)):
        one.step(np.full(70, first, dtype))
    assert np.isinf(opt.state["v"]).all()
    for key in opt.state:  # all but v
        if key not in ("t", "v", "mu_product"):
            opt.state[key] = twin.state[key]
    x[...] = fresh
    for one in (opt, twin):
        one.step(g)
    np.testing.assert_array_equal(opt.state["v"], twin.state["v"])
    np.testing.assert_array_equal(x, fresh)


def test_a_second_moment_that_takes_no_gradient():
    opt = na.Adam(np.zeros(3, np.float32), lr=0.1, beta2=1.0, eps_form="hat", bias_correction=False)
    opt.step(np.full(3, 1e30, np.float32))
    assert (opt.state["v"] == 0.0).all()
    assert not np.isnan(opt.params).any()


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (na.SGD, {"momentum": falls_to_zero}, "m"),
        extras.sweep(na.RMSprop, {"momentum": falls_to_zero}, "m"),
        extras.sweep(na.Lion, {"beta2": falls_to_zero, "beta1": 0.0}, "m"),
        (na.AdaMax, {"beta2": 0.0, "eps_form": "denominator"}, "u"),
    ],
)
def test_other_infinite_state_is_forgotten(kind, options, name):
    opt, twin = (kind(np.zeros(5), lr=0.1, **options) for _ in range(2))
    for one in (opt, twin):
        one.step(np.ones(5))
    opt.state[name][...], twin.state[name][...] = np.inf, 0.0
    for one in (opt, twin):
        one.step(np.full(5, 3.0))
    np.testing.assert_array_equal(opt.state[name], twin.state[name])
    np.testing.assert_array_equal(opt.params, twin.params)


@pytest.mark.parametrize("ema", [0.0, falls_to_zero])
def test_an_average_without_memory_is_the_parameters(ema):
    x = np.full(3, -3e38, np.float32)
    opt = na.SGD(x, lr=0.1, ema=ema)
    for number in (3e38, 3e38, 1.0):
        x[...] = number
        opt.step(np.zeros(3, np.float32))
    np.testing.assert_array_equal(opt.averaged, x)


def test_functions_and_rows():
    g = [np.full(3, number, np.float32) for number in (1e30, 1.0)]
    arrays = [[np.zeros(3, np.float32) for _ in range(3)] for _ in range(2)]
    opt = na.Adam(np.zeros((4, 3), np.float32), lr=0.1, sparse="lazy", count="row", **NO_MEMORY)
    for t in (1, 2):
        for (p, m, v), update in zip(arrays, (na.adam_update, nopython.adam_update), strict=True):
            update(p, g[t - 1], m, v, t, lr=0.1, beta2=0.0)
        opt.step(na.Rows(np.array([2]), g[t - 1].reshape(1, 3)))
    for p, _, v in arrays:
        np.testing.assert_array_equal(v, 1.0)
        assert np.isfinite(p).all()
    np.testing.assert_array_equal(opt.state["v"][2], 1.0)
    np.testing.assert_array_equal(opt.params[2], arrays[0][0])

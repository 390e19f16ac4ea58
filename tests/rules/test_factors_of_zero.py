"""A factor of 0 is no memory: what was infinite is forgotten, where NumPy has 0 * inf = NaN."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam import nopython

HUGE = {"float32": 1e30, "float64": 1e200, "complex64": 1e30 + 1e30j}
KINDS = [
    (na.Adam, {}),
    (na.Adam, {"eps_form": "hat", "nesterov": True}),
    (na.Adam, {"like": "numpy"}),
    (na.Adam, {"like": "sklearn"}),
    (na.AdamW, {}),
    (na.NAdam, {}),
    (na.RAdam, {}),
    (na.AdaBelief, {}),
    (na.RMSprop, {}),
    (na.RMSprop, {"momentum": 0.9, "centered": True}),
]
NO_MEMORY = {"beta2": 0.0}


def falls_to_zero(taken):
    return 0.9 if taken < 1 else 0.0


@pytest.mark.parametrize(
    ("kind", "options", "dtype"),
    [
        *((kind, options, "float32") for kind, options in KINDS),
        (na.Adam, {}, "float64"),
        (na.Adam, {}, "complex64"),
        (na.AdaBelief, {}, "float64"),
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


def test_the_input_of_the_report():
    x = np.zeros(1, np.float32)
    opt = na.Adam(x, lr=0.1, beta2=0.0)
    opt.step(np.array([1e30], np.float32))
    opt.step(np.array([1.0], np.float32))
    assert opt.state["v"] == 1.0
    assert np.isfinite(x).all()


def test_a_second_moment_that_takes_no_gradient():
    opt = na.Adam(np.zeros(3, np.float32), lr=0.1, beta2=1.0, eps_form="hat", bias_correction=False)
    opt.step(np.full(3, 1e30, np.float32))
    assert (opt.state["v"] == 0.0).all()
    assert not np.isnan(opt.params).any()


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        (na.SGD, {"momentum": falls_to_zero}, "m"),
        (na.RMSprop, {"momentum": falls_to_zero}, "m"),
        (na.Lion, {"beta2": falls_to_zero, "beta1": 0.0}, "m"),
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

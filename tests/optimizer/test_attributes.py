"""Attributes of an optimiser: set between steps, fixed, shown; what optimisers share."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import OrderedDict

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits
from tests.runs import compiled_step


def test_hyperparameters_set_between_steps():
    """From the next step on, as if the optimiser had been made with it."""
    p, q, g = np.ones(23), np.ones(23), np.linspace(-1, 1, 23)
    opt = na.Adam(p, lr=0.1)
    opt.step(g)
    opt.beta1, opt.beta2, opt.eps = 0.5, 0.75, 1e-2
    opt.step(g)
    first = na.Adam(q, lr=0.1)
    first.step(g)
    second = na.Adam(q, lr=0.1, beta1=0.5, beta2=0.75, eps=1e-2)
    second.state = first.state
    second.step(g)
    assert_same_bits(p, q)
    assert (opt.beta1, opt.beta2, opt.eps) == (0.5, 0.75, 1e-2)


def test_momentum_changes_but_not_from_or_to_zero():
    """Zero has no buffer: that is another optimiser."""
    p = np.zeros(2)
    opt = na.SGD(p, lr=1.0, momentum=0.5)
    opt.step(np.ones(2))
    opt.momentum = 0.25
    opt.step(np.ones(2))
    assert p.tolist() == [-2.25, -2.25]
    with pytest.raises(ValueError, match="new optimiser"):
        opt.momentum = 0.0
    with pytest.raises(ValueError, match="new optimiser"):
        na.SGD(np.ones(3)).momentum = 0.9
    nesterov = na.SGD(p, momentum=0.5, nesterov=True)
    with pytest.raises(ValueError, match=r"^nesterov: "):
        nesterov.momentum = 0.0
    assert nesterov.momentum == 0.5


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (na.Adam, "eps_form", "hat"),
        (na.Adam, "amsgrad", True),
        (na.SGD, "nesterov", True),
        (na.Adam, "skipped", 3),
        (na.Adam, "params", np.ones(3)),
    ],
)
def test_what_cannot_be_set_is_refused(make, name, value):
    """Never taken and ignored: what is fixed when the optimiser is made says so."""
    opt = make(np.ones(3))
    with pytest.raises((AttributeError, ValueError)):
        setattr(opt, name, value)


def test_completion_shows_no_internals():
    shown = {name for name in dir(na.Adam(np.zeros(3))) if not name.startswith("_")}
    assert not shown & {"backend", "tree", "settings", "lock", "parts"}


# --- what optimisers of the same options share ----------------------------------------------------


def test_what_two_optimisers_share_is_never_written():
    """A second optimiser of the same options copies what the first has computed."""
    x, y = np.zeros(5), np.zeros(5)
    options = {"clip_norm": 1.0, "weight_decay": 0.1}
    one, two = na.Adam(x, **options), na.Adam(y, **options)
    one.clip_norm, one.weight_decay, one.beta1, one.lr = 2.0, 0.2, 0.5, 0.25
    assert (two.clip_norm, two.weight_decay, two.beta1, two.lr) == (1.0, 0.1, 0.9, 0.001)
    three = na.Adam(np.zeros(5), **options)
    assert (three.clip_norm, three.beta1) == (1.0, 0.9)
    one.step(np.ones(5))
    assert (two.t, two.skipped, three.t) == (0, 0, 0)
    assert not two.state["m"].any()
    np.testing.assert_array_equal(y, 0.0)


def test_options_that_are_equal_but_not_the_same():
    """1, 1.0 and True are equal, and 0.0 and -0.0: they are options of their own."""
    x = np.zeros(5)
    assert type(na.Adam(x, clip_norm=1).clip_norm) is float
    with pytest.raises(TypeError, match="clip_norm: expected a number, got bool"):
        na.Adam(x, clip_norm=True)
    with pytest.raises(TypeError, match="maximize: expected True or False, got 1"):
        na.Adam(x, maximize=1)
    for low in (0.0, -0.0, 0.0):
        start = np.full(5, -1.0)
        na.Adam(start, bounds=(low, 1.0))
        np.testing.assert_array_equal(np.signbit(start), np.signbit(low))


def test_arrays_among_the_options_are_read_when_an_optimiser_is_made():
    x, low = np.zeros(5), np.full(5, -1.0)
    opt = na.Adam(x, lr=0.5, bounds=(low, np.ones(5)))
    low[...] = -0.1
    other = np.zeros(5)
    later = na.Adam(other, lr=0.5, bounds=(low, np.ones(5)))
    for _ in range(5):
        opt.step(np.ones(5))
        later.step(np.ones(5))
    np.testing.assert_array_equal(x, -1.0)
    np.testing.assert_array_equal(other, -0.1)


def test_an_optimiser_that_is_dropped_frees_its_memory_at_once():
    gc.disable()
    try:
        opt = na.Adam(np.zeros(5))
        opt.step(np.ones(5))
        left = weakref.ref(opt._backend), weakref.ref(compiled_step(opt))
        del opt
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()


def test_mappings_of_options_are_copied():
    """Also those that are no plain dicts."""
    groups = OrderedDict(a=OrderedDict(lr=0.1))
    opt = na.Adam({"a": np.zeros(3)}, groups=groups)
    groups["a"]["lr"] = 5.0
    assert opt.groups == {"a": {"lr": 0.1}}
    assert type(copy.deepcopy(opt).groups.copy()) is OrderedDict


NESTED = {
    "lr": {"a": 0.1, "b": 0.2},
    "groups": {"a": {"beta1": 0.5}},
    "bounds": {"a": (0, 1), "b": None},
}


@pytest.mark.parametrize("name", NESTED)
def test_what_is_fixed_is_not_written_into(name):
    """Else the attribute would be new, and steps old."""
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    opt = na.Adam(params, **NESTED)
    with pytest.raises(TypeError, match="does not support item assignment"):
        getattr(opt, name)["a"] = 5.0
    again = na.Adam(params, **{option: getattr(opt, option) for option in NESTED})
    assert {option: getattr(again, option) for option in NESTED} == NESTED


@pytest.mark.parametrize("name", ["lr", "bounds"])
def test_arrays_that_are_fixed_are_not_written_into(name):
    rates, low, high = np.full(3, 0.1), np.zeros(3), np.ones(3)
    opt = na.Adam(np.zeros(3), lr=rates, bounds=(low, high))
    array = opt.lr if name == "lr" else opt.bounds[0]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5.0
    na.Adam(np.zeros(3), lr=opt.lr, bounds=opt.bounds).step(np.ones(3))
    for given in (rates, low, high):
        given[0] = 0.5  # the caller's own stay as they are

"""Attributes of an optimiser: hyperparameters set between steps, fixed options, repr."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.bits import DTYPES, assert_same_bits

N = 23


def test_unknown_attribute_is_refused():
    opt = na.Adam(np.ones(3))
    for name in ("learning_rate", "decay", "beta3"):
        with pytest.raises(AttributeError, match=name):
            setattr(opt, name, 0.1)

    class Mine(na.Adam):
        pass

    mine = Mine(np.ones(3))
    mine.label = "a subclass may have its own"


def test_switches_are_true_or_false():
    with pytest.raises(ValueError, match=r"^amsgrad: .*'False'"):
        na.Adam(np.ones(3), amsgrad="False")
    with pytest.raises(TypeError, match=r"^maximize: .*1"):
        na.Adam(np.ones(3), maximize=1)
    with pytest.raises(TypeError, match=r"^nesterov: "):
        na.sgd_update(np.ones(3), np.ones(3), np.zeros(3), momentum=0.9, nesterov=[1])


@pytest.mark.parametrize("value", ["0.1", b"0.1", True, 10**400, np.nan])
def test_what_is_no_number_is_refused(value):
    for make in (lambda: na.Adam(np.ones(3), lr=value), lambda: na.Adam(np.ones(3), eps=value)):
        with pytest.raises((TypeError, ValueError), match=r"^(lr|eps): expected a number"):
            make()


@pytest.mark.parametrize("dtype", DTYPES)
def test_hyperparameters_set_between_steps(dtype):
    """From the next step on, as if the optimiser had been made with it."""
    p, q = np.ones(N, dtype), np.ones(N, dtype)
    g = np.linspace(-1, 1, N).astype(dtype)
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


def test_bad_hyperparameters_change_nothing():
    opt = na.Adam(np.ones(3))
    before = repr(opt)
    for name, bad in [("beta1", 1.0), ("beta2", 1.0), ("beta2", -1), ("eps", np.nan)]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            setattr(opt, name, bad)
    with pytest.raises(TypeError, match=r"^beta1: "):
        opt.beta1 = "x"
    assert repr(opt) == before
    assert opt.beta2 == 0.999


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


def test_repr():
    opt = na.Adam(np.ones(3), lr=0.5)
    opt.step(np.ones(3))
    assert repr(opt) == "Adam(lr=0.5, t=1; 1 array, 3 float64, cpu)"
    opt.beta1 = 0.8
    assert repr(opt) == "Adam(lr=0.5, beta1=0.8, t=1; 1 array, 3 float64, cpu)"
    assert repr(na.RMSprop(np.ones(3))) == "RMSprop(lr=0.01, t=0; 1 array, 3 float64, cpu)"
    # options are shown where they are not the usual ones
    bounded = na.SGD(np.ones(3), weight_decay=0.1, bounds=(np.zeros(3), None))
    assert "(lr=0.01, weight_decay=0.1, bounds=(array([0., 0., 0.]), None), t=0" in repr(bounded)
    assert "m, v" in repr(opt.state)
    assert "t=1" in repr(opt.state)

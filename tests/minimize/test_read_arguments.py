"""Arguments of a minimisation as they are read: starts, numbers at their ends, rules."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from numadam._minimize import arguments
from numadam._minimize.stopping import GTOL_REL, Tolerances
from tests.trees import Pair


def test_starts_are_copied_to_arrays_of_their_own():
    a = np.asfortranarray(np.ones((2, 3)))
    one = arguments.own_copy(a)
    assert one.flags.c_contiguous
    assert not np.shares_memory(one, a)
    pair = arguments.own_copy(Pair(a, [1, 2.5]))
    assert type(pair) is Pair
    np.testing.assert_array_equal(pair.first, a)
    nested = arguments.own_copy([a, {"w": np.float32(2)}])
    assert nested[1]["w"].dtype == np.float32
    for rows in ([1, 2], [[1, 2], [3, 4]], (1.0, 2.0), ((1, 2), (3, 4))):
        found = arguments.own_copy(rows)
        assert type(found) is np.ndarray
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, rows)
    copied = arguments.copy_tree({"a": one})
    assert not np.shares_memory(copied["a"], one)
    assert not np.shares_memory(arguments.copy_tree(one), one)


@pytest.mark.parametrize(
    ("x0", "error", "says"),
    [
        (None, TypeError, r"^x0: expected a NumPy or CuPy array, got None"),
        ({"a": None}, TypeError, r"^x0\['a'\]: expected a NumPy or CuPy array, got None"),
        ([np.ones(2), "b"], TypeError, r"^x0\[1\]: expected a NumPy or CuPy array, got str"),
        (np.ma.ones(2), TypeError, r"^x0: .*masked array"),
        ([[1.0], [1.0, 2.0]], ValueError, r"^x0: .*inhomogeneous"),
        (np.ones(2, ">f8"), TypeError, r"^x0: expected float32.*got >f8. Use .astype"),
        ({"a": np.ones(2, bool)}, TypeError, r"^x0\['a'\]: expected float32.*got bool"),
    ],
)
def test_starts_that_are_refused(x0, error, says):
    with pytest.raises(error, match=says):
        arguments.own_copy(x0)


def test_numbers_and_rules_are_read():
    assert arguments.check_maxiter(0) == 0
    assert arguments.check_maxiter(2**53 - 1) == 2**53 - 1
    for maxiter in (-1, 2**53):
        with pytest.raises(ValueError, match=r"^maxiter: "):
            arguments.check_maxiter(maxiter)
    assert [arguments.check_interval(None, host) for host in (True, False)] == [1, 20]
    assert arguments.check_interval(7, False) == 7
    assert arguments.read_args([1], compiled=False) == ([1],)
    assert arguments.read_args((1, 2), compiled=True) == (1, 2)
    with pytest.raises(TypeError, match=r"^args: expected a tuple, got a list"):
        arguments.read_args([1], compiled=True)
    assert arguments.rule_class(na.AdamW) is na.AdamW
    assert arguments.rule_class("adamW") is na.AdamW
    for rule, says in [
        ("Nesterov", "Write rule='sgd', momentum=0.9, nesterov=True.$"),
        ("momentum", "Write rule='sgd', momentum=0.9.$"),
        ("amsgrad", "Write rule='adam', amsgrad=True.$"),
        (na.Optimizer, "^rule: expected one of 'ada.*, got <class .*Optimizer'>.$"),
        (3, "^rule: expected one of 'ada.*, got 3.$"),
    ]:
        with pytest.raises(ValueError, match=says):
            arguments.rule_class(rule)


def test_tolerances_are_read():
    """Each alone is a test, however small; None and 0 are none."""
    off = {"gtol": 0.0, "gtol_rel": 0.0, "ftol": None, "xtol": None, "norm": math.inf}
    assert Tolerances.read(**off) == (0.0, 0.0, 0.0, 0.0, math.inf)
    assert Tolerances.read(**off).any is False
    assert Tolerances.read(None, None, None, None, 2) == (0.0, 0.0, 0.0, GTOL_REL, 2.0)
    assert Tolerances.read(0.5, None, None, None, 2).gtol_rel == 0.0
    for name in ("gtol", "gtol_rel", "ftol", "xtol"):
        found = Tolerances.read(**{**off, name: 0.5})
        assert found == Tolerances(**{**off, "ftol": 0.0, "xtol": 0.0, name: 0.5})
        assert found.any is True
        with pytest.raises(ValueError, match=rf"^{name}: expected a number"):
            Tolerances.read(**{**off, name: -1.0})
    for norm in (1, -2, True, "2", None, [2], math.nan):
        with pytest.raises(ValueError, match=r"^norm: expected numpy.inf or 2, got"):
            Tolerances.read(**{**off, "norm": norm})
    assert "at most gtol" in Tolerances(0.5, 0.0, 0.0, 0.0, 2.0).gradient_message(0.5, 1.0)

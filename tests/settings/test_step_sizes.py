"""A learning rate for each array or element."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits
from tests.reference_options import Steps
from tests.runs import digest, neutral
from tests.trees import tree_leaves, tree_map


def test_step_sizes_nested_as_the_parameters():
    """Numbers, callables and arrays; groups go before."""
    params = {"w": [np.zeros(3), np.zeros((2, 2))], "b": np.zeros(1), "c": np.zeros(1)}
    lr = {"w": [0.1, np.array([[0.2], [0.3]])], "b": lambda taken: 0.4, "c": 0.5}
    opt = na.Adam(params, lr, groups={"c": {"lr": 0.6}})
    opt.step(tree_map(np.ones_like, params))
    expected = {"w": [np.full(3, 0.1), np.array([[0.2, 0.2], [0.3, 0.3]])], "b": np.array([0.4])}
    expected["c"] = np.array([0.6])
    tree_map(lambda p, e: np.testing.assert_allclose(p, -e, rtol=1e-7), params, expected)


@pytest.mark.parametrize(
    ("params", "lr", "expected"),
    [
        ([np.zeros(2), np.zeros(1)], [0.1, 0.2], [[0.1, 0.1], [0.2]]),
        ((np.zeros(2), np.zeros(1)), (0.1, 0.2), [[0.1, 0.1], [0.2]]),
        ({"a": np.zeros(2), "b": np.zeros(1)}, {"b": 0.2, "a": 0.1}, [[0.1, 0.1], [0.2]]),
        (np.zeros(2), [0.1, 0.2], [[0.1, 0.2]]),
        (np.zeros((1, 2)), np.array(0.1), [[[0.1, 0.1]]]),
        (np.zeros(()), np.array(0.1), [0.1]),
        (np.zeros(2), np.float32(0.5), [[0.5, 0.5]]),
        (np.zeros(2), 1, [[1.0, 1.0]]),
        ([np.zeros(2)], [np.array([0.0, 0.2])], [[0.0, 0.2]]),
    ],
)
def test_forms_of_a_step_size(params, lr, expected):
    na.Adam(params, lr).step(tree_map(np.ones_like, params))
    for p, e in zip(tree_leaves(params), expected, strict=True):
        np.testing.assert_allclose(p, -np.array(e), rtol=1e-7)


@pytest.mark.parametrize(
    ("lr", "error", "says"),
    [
        ({"a": 0.1}, ValueError, "lr: expected the structure of params, got one without lr['b']"),
        ([0.1, 0.2], ValueError, "lr: expected"),
        ({"a": 0.1, "b": -0.1}, ValueError, "lr: expected a number in [0, inf), got -0.1"),
        ({"a": 0.1, "b": None}, TypeError, "lr: expected a number"),
        (
            {"a": 0.1, "b": np.ones(3)},
            ValueError,
            "lr: expected a number or an array that broadcasts",
        ),
        ({"a": 0.1, "b": np.array([0.1, np.inf])}, ValueError, "lr: expected finite numbers >= 0"),
        (np.ones(2), ValueError, "lr: expected"),
    ],
    ids=str,
)
def test_bad_step_sizes_are_refused(lr, error, says):
    with pytest.raises(error) as caught:
        na.Adam({"a": np.zeros(3), "b": np.zeros(2)}, lr)
    assert str(caught.value).startswith(says), caught.value


@pytest.mark.parametrize("decoupled", [False, True], ids=["l2", "decoupled"])
def test_step_size_for_each_element_against_the_reference(decoupled):
    """Decoupled decay goes with the element's own step size."""
    rng = np.random.default_rng(2)
    start, *calls = rng.standard_normal((8, 4, 3))
    lr = rng.uniform(0, 0.3, (4, 1))
    options = {"lr": lr, "weight_decay": 0.3, "decoupled": decoupled}
    opt = na.Adam(start.copy(), **neutral(start, **options))
    ref = Steps([start], **options)
    for g in calls:
        opt.step(g)
        opt.flush()
        ref.step([g])
    np.testing.assert_allclose(opt.params, ref.p[0], rtol=1e-13)
    by_row = na.Adam([row.copy() for row in start], list(lr[:, 0]))
    by_element = na.Adam(start.copy(), lr)
    for g in calls:
        by_row.step(list(g))
        by_element.step(g)
    np.testing.assert_allclose(by_element.params, by_row.params, rtol=1e-13)


def test_step_size_of_zero_holds_an_element():
    p = np.ones(4)
    lr = np.array([0.0, 0.1, 0.0, 0.2])
    opt = na.Adam(p, **neutral(p, lr=lr, weight_decay=0.5, decoupled=True))
    for _ in range(4):
        opt.step(np.ones(4))
    assert (p == 1).tolist() == [True, False, True, False]


def test_step_sizes_of_any_layout_and_dtype():
    rng = np.random.default_rng(3)
    lr = rng.uniform(0, 1, (4, 6))
    expected = np.asfortranarray(np.zeros((4, 6)))
    na.Adam(expected, lr).step(np.ones((4, 6)))
    np.testing.assert_allclose(expected, -lr, rtol=1e-7)
    for other in (np.asfortranarray(lr), np.repeat(lr, 2, 1)[:, ::2], lr.tolist()):
        p = np.zeros((4, 6))
        na.Adam(p, other).step(np.ones((4, 6)))
        assert_same_bits(p, np.ascontiguousarray(expected))
    p = np.zeros((4, 6))
    opt = na.Adam(p, lr.astype("f4"))
    opt.step(np.ones((4, 6)))
    np.testing.assert_allclose(p, -lr.astype("f4"), rtol=1e-7)
    assert digest(copy.deepcopy(opt)) == digest(opt)

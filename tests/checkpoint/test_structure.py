"""Nested arrays, options, step sizes and schedules as JSON and back."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds

from numadam import schedules
from numadam._arrays.tree import Tree
from numadam._checkpoint.container import name_fault
from numadam._checkpoint.tree import (
    Structure,
    equal,
    options_from_json,
    options_to_json,
    rebuild,
    values_in,
)
from tests.trees import relaxed

Pair = namedtuple("Pair", "weight bias")
#: keys that a file takes: no control character, no surrogate, not ".."
TREE_KEYS = st.text(
    st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from("/~01."), max_size=4
).filter(lambda key: key != "..") | st.integers(-20, 20)
LEAVES = st.just(None) | st.integers() | st.text(max_size=2) | st.builds(np.ones, st.integers(0, 3))


def entries(inner):
    # 0 and "0" would have one name: refused, and tested below
    return st.lists(st.tuples(TREE_KEYS, inner), max_size=4, unique_by=lambda pair: str(pair[0]))


TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | entries(inner).map(dict)
        | entries(inner).map(OrderedDict)
    ),
    max_leaves=12,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return a is b
    if isinstance(a, dict):
        same_keys = [(k, type(k)) for k in a] == [(k, type(k)) for k in b]
        return type(a) is type(b) and same_keys and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@relaxed
@given(TREES)
def test_names_are_unique_and_lead_back(tree):
    found = Structure(tree)
    names = list(found.leaves)
    assert all(name_fault(name) == "" for name in names)
    assert len({*names}) == len(names) == len(found.names)
    saved = json.loads(json.dumps(found.json))
    asked = []

    def take(name, axes):
        asked.append(name)
        assert axes == [0]
        return found.leaves[name]

    assert same(rebuild(saved, take), tree)
    assert asked == names
    assert [value for _, value in values_in(saved)] == leaves_without_arrays(tree)
    whole = Tree(tree)  # in whose order an optimiser counts the leaves
    for path, leaf in zip(whole.paths(), whole.flatten(tree, "params"), strict=True):
        if isinstance(leaf, np.ndarray):
            assert found.leaves[found.names[tuple(path)]] is leaf


def leaves_without_arrays(tree):
    if isinstance(tree, (dict, list, tuple)):
        children = tree.values() if isinstance(tree, dict) else tree
        return [leaf for child in children for leaf in leaves_without_arrays(child)]
    return [] if isinstance(tree, np.ndarray) else [tree]


def test_names_that_a_reader_sees():
    w = np.ones((2, 3))
    tree = {"layers": [Pair(w, None)], "a/b": (w,), "~": w, 7: w, "": w}
    assert list(Structure(tree).leaves) == ["p/layers/0/weight", "p/a~1b/0", "p/~0", "p/7", "p/"]
    assert list(Structure(w).leaves) == ["p"]
    paths = Tree(tree).paths()
    assert {tuple(path) for path in paths} >= Structure(tree).names.keys()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({0: np.ones(1), "0": np.ones(1)}, r"params: two of the keys \[0, '0'\] would have one"),
        ([{(1, 2): np.ones(1)}], r"params\[0\]: the key \(1, 2\) cannot be saved"),
        ({True: np.ones(1)}, "params: the key True cannot be saved"),
        ({"a": {1.5}}, r"params\['a'\]: only arrays.* type set"),
        ({"a": object()}, r"params\['a'\]: only arrays.* type object"),
    ],
)
def test_what_has_no_name_is_refused(tree, message):
    with pytest.raises(TypeError, match=message):
        Structure(tree)


# --- options --------------------------------------------------------------------------------------

NUMBERS = st.floats(0, 1e300) | st.integers(0, 10**6)
SCHEDULES = st.one_of(
    st.builds(schedules.Constant, NUMBERS),
    st.builds(schedules.Cosine, NUMBERS, st.integers(1, 50), end=NUMBERS),
    st.builds(schedules.OneCycle, NUMBERS, st.integers(5, 50), warmup=st.none() | st.just(2)),
)
PIECES = st.builds(
    lambda pieces: schedules.Piecewise(pieces, [7 * (k + 1) for k in range(len(pieces) - 1)]),
    st.lists(NUMBERS | SCHEDULES, min_size=1, max_size=4),
)
KEYS = st.text(max_size=3) | st.integers(-3, 3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | SCHEDULES | PIECES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=8,
)


def through_json(lr, options):
    arrays = {}
    saved = json.loads(json.dumps(options_to_json(lr, options, arrays)))
    return options_from_json(saved, arrays)


def types_of(value):
    if isinstance(value, dict):
        return type(value), [(key, types_of(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [types_of(one) for one in value]
    return type(value)


@given(VALUES, st.dictionaries(st.text(max_size=3), VALUES, max_size=3))
def test_every_value_comes_back_as_it_was(lr, options):
    back = through_json(lr, options)
    assert back == (lr, options)
    assert types_of(back[1]) == types_of(options)
    assert equal(back, (lr, options))


def test_arrays_and_bounds_come_back_in_float64():
    low, rate = np.array([0, 1], np.int32), np.array([[1e-3], [1.0]], np.float32)
    options = {
        "bounds": {"w": (low, np.array(2.0)), "b": Bounds(low, np.inf), "c": np.float32(1)},
    }
    arrays = {}
    saved = options_to_json([rate, 0.1], options, arrays)
    assert list(arrays) == ["options/lr/0", *(f"options/bounds/{k}" for k in range(3))]
    lr, back = options_from_json(saved, arrays)
    assert np.array_equal(lr[0], rate)
    assert lr[0].dtype == np.float64
    assert lr[1] == 0.1
    assert back["bounds"]["w"][1] == 2.0
    assert np.array_equal(back["bounds"]["b"].lb, low)
    assert np.all(back["bounds"]["b"].ub == np.inf)
    assert equal(back, options)
    assert equal(options, back)
    for other in ((low + 1, 2.0), (low, 3.0), (0.0, 2.0)):
        assert not equal(back, {**options, "bounds": {**options["bounds"], "w": other}})


class Mine(schedules.Constant):
    """A schedule of a user: its class may compute anything."""


@pytest.mark.parametrize(
    ("lr", "options", "message"),
    [
        (lambda t: 0.1, {}, "lr: a function of the user's cannot be saved .*<lambda>.*opt.step"),
        (Mine(0.1), {}, "lr: a function .*Mine"),
        ([0.1, {"w": abs}], {}, r"lr\[1\]\['w'\]: a function .*abs.* numadam.schedules\.$"),
        (schedules.Piecewise([0.1, abs], [5]), {}, r"lr.values\[1\]: a function"),
        (0.1, {"groups": {"w": {"beta1": abs}}}, r"groups\['w'\]\['beta1'\]: a function"),
        (0.1, {"bounds": {(1, 2): (0, 1)}}, r"bounds: the key \(1, 2\) cannot"),
        (0.1, {"bounds": [{1.5}]}, r"bounds\[0\]: a set cannot be saved. Use numbers"),
        (0.1, {"bounds": np.array([1j])}, "bounds: expected real numbers"),
    ],
)
def test_what_cannot_be_saved_is_named(lr, options, message):
    with pytest.raises(TypeError, match=message):
        options_to_json(lr, options, {})


def test_an_argument_of_the_future_has_its_default():
    step = ["Step", {"start": 1, "steps": 3}]
    saved = {"lr": {"schedule": 0}, "options": {}, "schedules": [step]}
    assert options_from_json(saved, {})[0] == schedules.Step(1.0, steps=3)


def test_state_of_a_plateau_is_checked():
    plateau = schedules.ReduceOnPlateau(0.1)
    before = repr(plateau)
    good = {"value": 0.01, "best": 2.0, "waited": 1, "cooling": 0}
    for name, bad in {"value": -1.0, "best": np.nan, "waited": -1, "cooling": 0.5}.items():
        with pytest.raises((TypeError, ValueError), match=name):
            plateau.set_state(**{**good, name: bad})
    assert repr(plateau) == before

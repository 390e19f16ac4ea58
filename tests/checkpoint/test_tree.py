"""Names of nested arrays, and their nesting as JSON."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numadam._arrays.tree import Tree
from numadam._checkpoint.header import name_fault
from numadam._checkpoint.tree import Structure, laid_out, rebuild, values_in
from tests.trees import relaxed

Pair = namedtuple("Pair", "weight bias")
#: keys that a file takes: no control character, no surrogate, not ".."
KEYS = st.text(
    st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from("/~01."), max_size=4
).filter(lambda key: key != "..") | st.integers(-20, 20)
LEAVES = st.just(None) | st.integers() | st.text(max_size=2) | st.builds(np.ones, st.integers(0, 3))


def entries(inner):
    # 0 and "0" would have one name: refused, and tested below
    return st.lists(st.tuples(KEYS, inner), max_size=4, unique_by=lambda pair: str(pair[0]))


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


@pytest.mark.parametrize("tree", [Pair(np.ones(1), np.ones(1)), defaultdict(list, a=np.ones(1))])
def test_containers_of_others_have_names_and_are_not_made(tree):
    found = Structure({"x": tree})
    assert list(found.leaves) in (["p/x/weight", "p/x/bias"], ["p/x/a"])
    message = f"p/x: is in a .*{type(tree).__name__}, which numadam cannot make. .*load"
    with pytest.raises(ValueError, match=message):
        rebuild(found.json, lambda name, axes: None)


def test_a_container_of_the_user_may_have_the_name_of_one_of_ours():
    for name in ("list", "tuple", "dict", "value", "array"):
        tree = namedtuple(name, "weight")(np.ones(1))
        (kind,) = Structure(tree).json
        assert kind == f"{__name__}.{name}"
        with pytest.raises(ValueError, match="which numadam cannot make"):
            rebuild(Structure(tree).json, lambda name, axes: None)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_order_in_memory_comes_back(axes):
    values = np.arange(24.0).reshape(2, 3, 4)
    here = laid_out(values, axes, np)
    (saved,) = Structure(here).json.values()
    assert tuple(saved) == axes
    again = laid_out(np.ascontiguousarray(here), saved, np)
    assert again.strides == here.strides
    assert np.array_equal(again, values)
    for bad in ([0, 1], [0, 1, 1], [0, 1, 3], ["0", 1, 2], None, 5):
        with pytest.raises((TypeError, ValueError)):
            laid_out(values, bad, np)

"""Options of their own for some arrays, and frozen arrays."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits
from tests.reference_options import Steps
from tests.saved import loaded
from tests.trees import Pair, tree_leaves, tree_map


def network(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "layers": [
            {"weight": rng.standard_normal((3, 2)), "bias": rng.standard_normal(2)}
            for _ in range(2)
        ],
        "head": {"weight": rng.standard_normal(4), "bias": rng.standard_normal(1)},
        "emb": rng.standard_normal((5, 2)),
    }


def train(opt, seeds=range(1, 7), of=network):
    for seed in seeds:
        opt.step(of(seed))
    return opt


def own_options(params, options_of, **common):
    """Each array in an optimiser of its own: what groups have to give, bit for bit."""
    alone = {}

    def one(path, p, *grads):
        opt = na.Adam(p.copy(), **{**common, **options_of(path)})
        for g in grads:
            opt.step(g)
        alone[path] = opt.params

    walk(one, "", params, *[network(seed) for seed in range(1, 7)])
    return alone


def walk(visit, path, tree, *others):
    if isinstance(tree, (dict, list)):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            walk(visit, f"{path}.{key}".lstrip("."), tree[key], *(o[key] for o in others))
    else:
        visit(path, tree, *others)


def assert_alone(params, alone):
    def one(path, p):
        assert_same_bits(p, alone[path], path)

    walk(one, "", params)


# --- groups --------------------------------------------------------------------------------------


def test_the_example_of_the_issue():
    groups = {"*.bias": {"weight_decay": 0}, "head": {"lr": 1e-4}, "emb": {"frozen": True}}
    params = network()
    emb = params["emb"].copy()
    opt = na.Adam(params, lr=0.1, weight_decay=0.2, groups=groups)
    train(opt)

    def options_of(path):
        options = {"weight_decay": zero} if path.endswith("bias") else {}
        return options | ({"lr": 1e-4} if path.startswith("head") else {})

    alone = own_options(network(), options_of, lr=0.1, weight_decay=0.2)
    alone["emb"] = emb
    assert_alone(params, alone)
    assert opt.groups == groups


def zero(taken):
    return 0.0


def test_every_option_of_a_group():
    """Also betas and eps, schedules among them."""
    of_head = {
        "beta1": 0.5,
        "beta2": 0.9,
        "eps": 0.1,
        "clip_value": 0.3,
        "lr": lambda taken: 0.1 / (1 + taken),
    }
    of_bias = {"weight_decay": lambda taken: 0.1 * taken, "eps_root": 0.01}
    params = network()
    opt = na.Adam(params, lr=0.1, weight_decay=0.2, groups={"head": of_head, "*bias": of_bias})
    train(opt)

    def options_of(path):
        options = of_head if path.startswith("head") else {}
        return {**options, **(of_bias if path.endswith("bias") else {})}

    assert_alone(params, own_options(network(), options_of, lr=0.1, weight_decay=0.2))


def test_a_beta_that_changes_in_one_group_alone():
    """Its bias correction is a running product; the other arrays keep their powers."""

    def beta1(taken):
        return 0.9 - 0.1 * taken

    params = {"a": np.ones(3), "b": np.ones(3)}
    opt = na.Adam(params, lr=0.1, groups={"a": {"beta1": beta1}})
    ref = {"a": Steps([np.ones(3)], lr=0.1, beta1=beta1), "b": Steps([np.ones(3)], lr=0.1)}
    for g in np.random.default_rng(0).standard_normal((6, 3)):
        opt.step({"a": g, "b": g})
        for one in ref.values():
            one.step([g])
    for name, one in ref.items():
        np.testing.assert_allclose(params[name], one.p[0], rtol=1e-13, err_msg=name)
    changing = 0.9 * 0.8 * 0.7 * 0.6 * 0.5 * 0.4
    assert sorted(opt.state["beta1_product"].tolist()) == pytest.approx([changing, 0.9**6])


def test_schedules_of_a_group_begin_where_the_optimiser_is():
    asked = []

    def lr(taken):
        asked.append(taken)
        return 0.1

    params = {"a": np.ones(2), "b": np.ones(2)}
    opt = na.Adam(params, groups={"a": {"lr": lr}})
    opt.state["t"] = 7
    asked.clear()
    opt.step({"a": np.ones(2), "b": np.ones(2)})
    opt.step({"a": np.ones(2), "b": np.ones(2)}, lr=0.5)
    assert asked == [7, 8]


def test_the_later_of_two_groups_goes_before():
    params = {"a": {"bias": np.zeros(1), "weight": np.zeros(1)}, "b": {"bias": np.zeros(1)}}
    groups = {"*": {"lr": 0.1}, "a": {"lr": 0.2}, "*.bias": {"lr": 0.3}, "b.*": {}}
    na.Adam(params, groups=groups).step(tree_map(np.ones_like, params))
    got = {name: float(p[0]) for name, p in [*params["a"].items(), ("b", params["b"]["bias"])]}
    assert got == pytest.approx({"bias": -0.3, "weight": -0.2, "b": -0.3})


@pytest.mark.parametrize(
    ("pattern", "hits"),
    [
        ("*", "abcdef"),
        ("w", "ab"),
        ("w.0", "a"),
        ("w.*", "ab"),
        ("*.0", "ace"),  # the entries of a named tuple have numbers
        ("[xy]", "cdef"),
        ("x.0", "c"),
        ("y.0", "e"),
        ("?", "abcdef"),
        ("y.[!0]", "f"),
    ],
)
def test_patterns_are_for_the_dotted_path_or_a_container(pattern, hits):
    a, b, c, d, e, f = (np.zeros(1) for _ in range(6))
    params = {"w": [a, b], "x": Pair(c, d), "y": (e, f)}
    leaves = dict(zip("abcdef", tree_leaves(params), strict=True))
    na.Adam(params, lr=0.0, groups={pattern: {"lr": 0.5}}).step(tree_map(np.ones_like, params))
    assert "".join(name for name, p in leaves.items() if p[0] != 0) == hits


@pytest.mark.parametrize(
    ("groups", "error", "says"),
    [
        ({"heads": {"lr": 1.0}}, ValueError, "groups['heads']: fits no array; their paths are '"),
        ({"": {"lr": 1.0}}, ValueError, "groups['']: fits no array"),
        ({"*.head": {"lr": 1.0}}, ValueError, "groups['*.head']: fits no array; their paths are"),
        ({"Head": {"lr": 1.0}}, ValueError, "groups['Head']: fits no array"),
        (
            {"head": {"learning_rate": 1.0}},
            ValueError,
            "groups['head']: cannot set 'learning_rate'",
        ),
        ({"head": {"clip_norm": 1.0}}, ValueError, "groups['head']: cannot set 'clip_norm'"),
        ({"head": {"amsgrad": True}}, ValueError, "groups['head']: cannot set 'amsgrad'"),
        ({"head": {"lr": -1.0}}, ValueError, "lr: expected a number in [0, inf)"),
        ({"head": {"lr": "1"}}, TypeError, "lr: expected a number"),
        ({"head": {"beta1": 1.0}}, ValueError, "beta1: expected a number in [0, 1)"),
        ({"head": {"beta2": 1.0}}, ValueError, "beta2: 1.0 is only possible"),
        ({"head": {"weight_decay": -1.0}}, ValueError, "weight_decay: expected a number"),
        ({"head": {"frozen": 1}}, TypeError, "groups['head']['frozen']: expected True or False"),
        ({"head": 0.1}, TypeError, "groups: expected a pattern and its options"),
        ({0: {"lr": 0.1}}, TypeError, "groups: expected a pattern and its options"),
        ([("head", {"lr": 0.1})], TypeError, "groups: expected a mapping"),
        ({"head": {"lr": np.ones(3)}}, ValueError, "lr: expected a number or an array"),
        ({"*": {"frozen": True}}, ValueError, "groups: every array is frozen"),
    ],
    ids=str,
)
def test_bad_groups_are_refused(groups, error, says):
    with pytest.raises(error) as caught:
        na.Adam(network(), groups=groups)
    assert str(caught.value).startswith(says), caught.value


def test_a_group_cannot_need_other_state_than_the_rest():
    with pytest.raises(ValueError, match=r"^groups: .*momentum.* needs other state arrays"):
        na.SGD({"a": np.ones(2), "b": np.ones(2)}, groups={"a": {"momentum": 0.9}})


def test_setting_an_option_leaves_the_groups_their_own():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    opt = na.Adam(params, lr=0.1, groups={"a": {"lr": 0.5, "clip_value": 1.0}})
    opt.lr = 0.2
    opt.clip_value = 1e-3
    opt.step({"a": np.full(1, 7.0), "b": np.full(1, 7.0)})
    np.testing.assert_allclose([params["a"][0], params["b"][0]], [-0.5, -0.2], rtol=1e-4)
    np.testing.assert_allclose([opt.state["m"]["a"][0], opt.state["m"]["b"][0]], [0.1, 1e-4])
    opt.step({"a": np.full(1, 7.0), "b": np.full(1, 7.0)}, lr=0.0)
    assert params["b"][0] == pytest.approx(-0.2, rel=1e-4)
    assert params["a"][0] < -0.9


def test_one_norm_over_all_groups():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    opt = na.Adam(params, beta1=0.0, clip_norm=1.0, groups={"a": {"clip_value": 0.5, "lr": 0.2}})
    opt.step({"a": np.array([3.0]), "b": np.array([4.0])})
    assert opt.grad_norm == 5.0
    assert opt.state["m"]["a"][0] == pytest.approx(0.5 / 5)
    assert opt.state["m"]["b"][0] == pytest.approx(4 / 5)


# --- frozen --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stand_in", [None, "anything", np.ones((7, 7), int), 3.0])
def test_anything_may_stand_for_the_gradient_of_a_frozen_array(stand_in):
    params = network()
    emb = params["emb"]
    emb.setflags(write=False)
    opt = na.Adam(params, lr=0.1, groups={"emb": {"frozen": True}})
    opt.step({**network(1), "emb": stand_in})
    assert_same_bits(emb, network()["emb"])
    assert opt.state["m"]["emb"] is None
    assert opt.grads["emb"] is None
    opt.grads["head"]["weight"][...] = 1.0
    opt.step()
    assert opt.t == 2


def test_frozen_arrays_may_be_of_another_dtype_and_replaced():
    params = {"a": np.ones(2), "ids": np.arange(3), "text": "x"}
    opt = na.Adam(params, lr=0.1, groups={"ids": {"frozen": True}, "text": {"frozen": True}})
    params["ids"] = None
    opt.step({"a": np.ones(2), "ids": None, "text": None})
    assert params["a"][0] == pytest.approx(0.9)
    params["a"] = np.ones(2)
    with pytest.raises(ValueError, match="was replaced by another object"):
        opt.step({"a": np.ones(2), "ids": None, "text": None})


def test_copies_of_an_optimiser_with_frozen_arrays():
    groups = {"emb": {"frozen": True}, "*.bias": {"lr": 0.01}}
    opt = train(na.Adam(network(), lr=0.1, groups=groups))
    for twin in (pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt), loaded(opt)):
        assert_same_bits(twin.params["emb"], network()["emb"])
        train(twin, range(7, 10))
        expected = train(copy.deepcopy(opt), range(7, 10))
        walk(lambda path, p, q: assert_same_bits(p, q, path), "", twin.params, expected.params)
    saved = copy.deepcopy(dict(opt.state))
    assert saved["m"]["emb"] is None
    opt.state = saved


@pytest.mark.parametrize(("count", "more"), [(1, ""), (6, ""), (7, ", ...")])
def test_a_pattern_that_fits_no_array_is_told_six_paths(count, more):
    known = ", ".join(f"'a.{k}'" for k in range(min(count, 6)))
    with pytest.raises(ValueError, match="fits no array") as caught:
        na.SGD({"a": [np.ones(1) for _ in range(count)]}, groups={"b": {"lr": 1.0}})
    assert str(caught.value) == f"groups['b']: fits no array; their paths are {known}{more}."


def test_a_pattern_for_an_array_in_a_container_is_corrected():
    with pytest.raises(ValueError, match=r"'w', 'bias'. Write 'bias'.$"):
        na.SGD({"w": np.ones(1), "bias": np.ones(1)}, groups={"*.bias": {"lr": 1.0}})

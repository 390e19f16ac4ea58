"""Options and step sizes of their own for some arrays or elements, and frozen arrays."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.bits import assert_same_bits
from tests.reference_options import Steps
from tests.runs import neutral
from tests.trees import Pair, tree_leaves, tree_map


def network(seed=0):
    """Layers in containers of every kind."""
    draw = np.random.default_rng(seed).standard_normal
    return {
        "head": {"w": draw((3, 4)), "bias": draw(4)},
        "layers": [{"w": draw((4, 4)), "bias": draw(4)}, (draw(5), draw(2))],
        "emb": draw((6, 2)),
    }


# --- groups --------------------------------------------------------------------------------------


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
        ("w.*", "ab"),
        ("*.0", "ace"),  # the entries of a named tuple have numbers
        ("[xy]", "cdef"),
        ("x.0", "c"),
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
        ({"*.head": {"lr": 1.0}}, ValueError, "groups['*.head']: fits no array; their paths are"),
        (
            {"head": {"learning_rate": 1.0}},
            ValueError,
            "groups['head']: cannot set 'learning_rate'",
        ),
        ({"head": {"clip_norm": 1.0}}, ValueError, "groups['head']: cannot set 'clip_norm'"),
        ({"head": {"lr": -1.0}}, ValueError, "lr: expected a number in [0, inf)"),
        ({"head": {"beta2": 1.0}}, ValueError, "beta2: 1.0 is only possible"),
        ({"head": {"frozen": 1}}, TypeError, "groups['head']['frozen']: expected True or False"),
        ({"head": 0.1}, TypeError, "groups: expected a pattern and its options"),
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
    opt.grads["head"]["w"][...] = 1.0
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


def test_a_pattern_for_an_array_in_a_container_is_corrected():
    with pytest.raises(ValueError, match=r"'w', 'bias'. Write 'bias'.$"):
        na.SGD({"w": np.ones(1), "bias": np.ones(1)}, groups={"*.bias": {"lr": 1.0}})


# --- the bits of optimisers of their own ----------------------------------------------------------


def trained(params, calls, **options):
    opt = na.Adam(params, **options)
    for grads in calls:
        opt.step(grads)
    return opt


CALLS = [network(k) for k in range(1, 6)]
OWN = {
    "lr": {"lr": 0.03},
    "lr schedule": {"lr": na.schedules.Exponential(0.1, factor=0.5)},
    "weight_decay": {"weight_decay": 0.3},
    "weight_decay schedule": {"weight_decay": lambda taken: 0.1 * taken},
    "betas": {"beta1": 0.5, "beta2": 0.8, "eps": 1e-3, "eps_root": 0.01},
    "beta schedule": {"beta1": lambda taken: 0.9 - 0.1 * taken},
    "clip_value": {"clip_value": 0.2},
    "lr of arrays": {"lr": np.array([0.1])},
}


@pytest.mark.parametrize(
    ("name", "decoupled"),
    [
        *((name, False) for name in OWN),
        *(extras.sweep(name, True) for name in ("lr", "weight_decay schedule")),
    ],
)
def test_group_has_the_bits_of_an_optimiser_of_its_own(name, decoupled):
    shared = {"lr": 0.07, "weight_decay": 0.01, "decoupled": decoupled}
    own = OWN[name]
    # where one group needs running products of betas, all have them
    constant = {"beta1": lambda taken: 0.9} if callable(own.get("beta1")) else {}
    calls = [tree_leaves(grads)[:3] for grads in CALLS]
    together = trained(tree_leaves(network())[:3], calls, groups={"1": own}, **shared)
    for k, start in enumerate(tree_leaves(network())[:3]):
        options = {**shared, **(own if k == 1 else constant)}
        alone = trained(start, [grads[k] for grads in calls], **options)
        assert_same_bits(together.params[k], alone.params)
        for moment in ("m", "v"):
            assert_same_bits(together.state[moment][k], alone.state[moment])


@pytest.mark.parametrize("wrong", [np.array([0.1, 1j]), np.array(["0.1", "0.2"])])
def test_options_that_are_no_real_numbers_are_refused(wrong):
    p = np.ones(2)
    for options in ({"lr": wrong}, {"bounds": (wrong, None)}):
        with pytest.raises((TypeError, ValueError), match=r"^(lr|bounds\[0\]): expected"):
            na.Adam(p, **options)


# --- a step size for each array or element -------------------------------------------------------


def test_lr_of_one_call_is_for_arrays_without_their_own():
    params = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    ones = tree_map(np.ones_like, params)
    opt = na.Adam(params, lr=0.1, groups={"b": {"lr": 0.2}, "c": {"lr": np.full(1, 0.3)}})
    opt.step(ones, lr=0.5)
    np.testing.assert_allclose(np.concatenate(list(params.values())), [-0.5, -0.2, -0.3])
    opt.lr = 0.0
    opt.step(ones)
    np.testing.assert_allclose(np.concatenate(list(params.values())), [-0.5, -0.4, -0.6])
    each = {"a": 0.1, "b": 0.1, "c": np.full(1, 0.1)}
    for opt, grads in (
        (na.Adam(params, each), ones),
        (na.Adam(np.ones(3), np.ones(3)), np.ones(3)),
    ):
        with pytest.raises(ValueError, match=r"^lr: this optimiser has a step size for each"):
            opt.step(grads, lr=0.5)
        assert opt.t == 0


def test_step_sizes_nested_as_the_parameters():
    """Numbers, callables and arrays; groups go before."""
    params = {"w": [np.zeros(3), np.zeros((2, 2))], "b": np.zeros(1), "c": np.zeros(1)}
    params["d"] = np.zeros(2)
    lr = {"w": [0.1, np.array([[0.2], [0.3]])], "b": lambda taken: 0.4, "c": 0.5, "d": 0.5}
    groups = {"c": {"lr": 0.6}, "d": {"lr": np.array([0.7, 0.8])}}
    na.Adam(params, lr, groups=groups).step(tree_map(np.ones_like, params))
    expected = {"w": [np.full(3, 0.1), np.array([[0.2, 0.2], [0.3, 0.3]])], "b": np.array([0.4])}
    expected |= {"c": np.array([0.6]), "d": np.array([0.7, 0.8])}
    tree_map(lambda p, e: np.testing.assert_allclose(p, -e, rtol=1e-7), params, expected)


@pytest.mark.parametrize(
    ("params", "lr", "expected"),
    [
        ([np.zeros(2), np.zeros(1)], [0.1, 0.2], [[0.1, 0.1], [0.2]]),
        ((np.zeros(2), np.zeros(1)), (0.1, 0.2), [[0.1, 0.1], [0.2]]),
        ({"a": np.zeros(2), "b": np.zeros(1)}, {"b": 0.2, "a": 0.1}, [[0.1, 0.1], [0.2]]),
        (np.zeros(2), [0.1, 0.2], [[0.1, 0.2]]),
        (np.zeros(()), np.array(0.1), [0.1]),
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
        ref.step([g])
    np.testing.assert_allclose(opt.params, ref.p[0], rtol=1e-13)
    by_row = na.Adam([row.copy() for row in start], list(lr[:, 0]))
    by_element = na.Adam(start.copy(), lr)
    for g in calls:
        by_row.step(list(g))
        by_element.step(g)
    np.testing.assert_allclose(by_element.params, by_row.params, rtol=1e-13)

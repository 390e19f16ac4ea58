"""Groups and step sizes for each: the bits of optimisers of their own, many arrays, resumed."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numadam as na
from tests import references as ref
from tests.bits import assert_same_bits
from tests.saved import loaded
from tests.trees import tree_leaves, tree_map


def net(seed=0):
    """Layers in containers of every kind."""
    draw = np.random.default_rng(seed).standard_normal
    return {
        "head": {"w": draw((3, 4)), "bias": draw(4)},
        "layers": [{"w": draw((4, 4)), "bias": draw(4)}, (draw(5), draw(2))],
        "emb": draw((6, 2)),
    }


def trained(params, calls, **options):
    opt = na.Adam(params, **options)
    for grads in calls:
        opt.step(grads)
    return opt


def assert_same(a, b):
    for one, other in zip(tree_leaves(a), tree_leaves(b), strict=True):
        assert_same_bits(one, other)


CALLS = [net(k) for k in range(1, 6)]
OWN = {
    "lr": {"lr": 0.03},
    "lr schedule": {"lr": na.schedules.Exponential(0.1, factor=0.5)},
    "weight_decay": {"weight_decay": 0.3},
    "weight_decay schedule": {"weight_decay": lambda taken: 0.1 * taken},
    "betas": {"beta1": 0.5, "beta2": 0.8, "eps": 1e-3},
    "beta schedule": {"beta1": lambda taken: 0.9 - 0.1 * taken},
    "clip_value": {"clip_value": 0.2},
    "lr of arrays": {"lr": np.array([0.1])},
}


@pytest.mark.parametrize("decoupled", [False, True], ids=["l2", "decoupled"])
@pytest.mark.parametrize("name", OWN)
def test_group_has_the_bits_of_an_optimiser_of_its_own(name, decoupled):
    shared = {"lr": 0.07, "weight_decay": 0.01, "decoupled": decoupled}
    own = OWN[name]
    # where one group needs running products of betas, all have them
    constant = {"beta1": lambda taken: 0.9} if callable(own.get("beta1")) else {}
    calls = [tree_leaves(grads)[:3] for grads in CALLS]
    together = trained(tree_leaves(net())[:3], calls, groups={"1": own}, **shared)
    for k, start in enumerate(tree_leaves(net())[:3]):
        options = {**shared, **(own if k == 1 else constant)}
        alone = trained(start, [grads[k] for grads in calls], **options)
        assert_same_bits(together.params[k], alone.params)
        for moment in ("m", "v"):
            assert_same_bits(together.state[moment][k], alone.state[moment])


def test_many_arrays_in_three_groups():
    rng = np.random.default_rng(2)
    names = [f"{'abc'[k % 3]}.{k}" for k in range(100)]
    start, *calls = ({n: rng.standard_normal(k) for k, n in enumerate(names)} for _ in range(4))
    groups = {"a.*": {"lr": 0.01}, "b.*": {"lr": 0.5, "beta1": 0.3}, "c.9*": {"frozen": True}}
    opt = trained(copy.deepcopy(start), calls, lr=0.1, groups=groups)
    for name, p in opt.params.items():
        own = {"a": {"lr": 0.01}, "b": {"lr": 0.5, "beta1": 0.3}, "c": {"lr": 0.1}}[name[0]]
        if name.startswith("c.9"):
            assert_same_bits(p, start[name])
            continue
        expected, _ = ref.steps("adam")(start[name], [grads[name] for grads in calls], **own)
        np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-14)


def test_all_frozen_is_refused():
    for params in (net(), np.ones(2)):
        with pytest.raises(ValueError, match="every array is frozen"):
            na.Adam(params, groups={"*": {"frozen": True}})


@pytest.mark.parametrize("wrong", [np.array([0.1, 1j]), np.array(["0.1", "0.2"])])
def test_options_that_are_no_real_numbers_are_refused(wrong):
    p = np.ones(2)
    for options in ({"lr": wrong}, {"bounds": (wrong, None)}):
        with pytest.raises((TypeError, ValueError), match=r"^(lr|bounds\[0\]): expected"):
            na.Adam(p, **options)


# --- a step size for each array or element -------------------------------------------------------

RATES = {
    "array": (np.array([[0.1], [0.2], [0.0]]), np.array([0.01, 0.2, 0.0, 0.3])),
    "numbers": (0.1, 0.2),
    "mixed": (np.linspace(0.0, 0.1, 12).reshape(3, 4), 0.1),
    "float32 and schedule": (np.full((3, 4), 0.1, "f4"), na.schedules.Exponential(0.1, factor=0.5)),
}


@pytest.mark.parametrize("name", RATES)
def test_step_size_for_each(name):
    """As numbers for each element; an array for one array alone; or out of a group."""
    w, bias = RATES[name]
    calls = [grads["head"] for grads in CALLS]
    nested = trained(net()["head"], calls, lr={"w": w, "bias": bias}, weight_decay=0.1)
    grouped = trained(
        net()["head"], calls, groups={"w": {"lr": w}, "b*": {"lr": bias}}, weight_decay=0.1
    )
    assert_same(grouped.params, nested.params)
    for key, rate in (("w", w), ("bias", bias)):
        start, grads = net()["head"][key], [grads[key] for grads in calls]
        alone = trained(start.copy(), grads, lr=rate, weight_decay=0.1)
        np.testing.assert_allclose(alone.params, nested.params[key], rtol=1e-14)
        for at in np.ndindex(start.shape):
            if callable(rate):
                lr = [rate(t) for t in range(5)]
            else:
                lr = float(np.broadcast_to(rate, start.shape)[at])
            path, _ = ref.steps("adam")(start[at], [g[at] for g in grads], lr=lr, weight_decay=0.1)
            np.testing.assert_allclose(nested.params[key][at], path, rtol=1e-12)


def test_lr_of_one_call_is_for_arrays_without_their_own():
    params = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    ones = tree_map(np.ones_like, params)
    opt = na.Adam(params, lr=0.1, groups={"b": {"lr": 0.2}, "c": {"lr": np.full(1, 0.3)}})
    opt.step(ones, lr=0.5)
    np.testing.assert_allclose(np.concatenate(list(params.values())), [-0.5, -0.2, -0.3])
    opt.lr = 0.0
    opt.step(ones)
    np.testing.assert_allclose(np.concatenate(list(params.values())), [-0.5, -0.4, -0.6])
    nested = na.Adam(params, lr={"a": 0.1, "b": 0.1, "c": 0.1})
    with pytest.raises(ValueError, match=r"^lr: this optimiser has a step size for each array"):
        nested.step(ones, lr=0.5)
    with pytest.raises(AttributeError, match=r"^lr: arrays of step sizes are fixed"):
        nested.lr = 0.5
    assert nested.t == 0


@pytest.mark.parametrize(
    "way", [lambda opt: pickle.loads(pickle.dumps(opt)), copy.deepcopy, loaded]
)
def test_resumed_with_the_same_bits(way):
    groups = {"head": {"lr": np.array([0.1, 0.2, 0.3, 0.0])}, "emb": {"frozen": True}}
    groups["layers.0"] = {"beta1": 0.5, "weight_decay": na.schedules.Exponential(0.1, factor=0.5)}
    opt = trained(net(), CALLS, lr=0.1, groups=groups)
    twin = way(opt)
    for one in (opt, twin):
        for grads in CALLS:
            one.step(grads)
    assert twin.t == 10
    assert_same(twin.params, opt.params)
    assert twin.params["layers"][0]["w"] is not opt.params["layers"][0]["w"]

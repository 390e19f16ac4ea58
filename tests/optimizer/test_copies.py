"""Pickles and deep copies of an optimiser: runs that go on with the same bits."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numadam as na
from tests.bad_arrays import assert_unchanged, snapshot
from tests.bits import DTYPES, KERNELS, RULES, assert_same_bits
from tests.optimizer.nested import tree_of
from tests.trees import assert_leaves, tree_leaves


def halving(taken):
    return 0.1 / 2**taken


COPIES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "pickle protocol 2": lambda x: pickle.loads(pickle.dumps(x, 2)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_resumed_run_has_the_same_bits(name, dtype, how):
    params = tree_of(0, dtype)
    opt = RULES[name][0](params, halving)
    for k in range(3):
        opt.step(tree_of(10 + k, dtype))
    there, resumed = COPIES[how]((params, opt))
    assert resumed.params is there
    assert resumed.t == 3
    assert type(resumed) is type(opt)
    assert repr(resumed) == repr(opt)
    assert not any(
        np.shares_memory(a, b) for a, b in zip(tree_leaves(there), tree_leaves(params), strict=True)
    )
    for k in range(3):
        opt.step(tree_of(20 + k, dtype))
    for k in range(3):
        resumed.step(tree_of(20 + k, dtype))
    assert_leaves(there, tree_leaves(params))
    for key in opt.state:
        assert_leaves(resumed.state[key], tree_leaves(opt.state[key]))


def test_a_pickle_holds_the_parameters_once():
    params = [np.random.default_rng(0).standard_normal(50_000) for _ in range(2)]
    size = sum(p.nbytes for p in params)
    opt = na.Adam(params)
    opt.step([np.ones(50_000)] * 2)
    assert opt.grads[0].size == 50_000  # the gradients are not state
    assert len(pickle.dumps((params, opt))) < 3 * size + 20_000  # p, m, v
    assert len(pickle.dumps(opt)) < 3 * size + 20_000


def test_a_copy_is_a_run_of_its_own():
    p = np.ones(3)
    opt = na.Adam(p, lr=0.1)
    opt.step(np.ones(3))
    other = copy.deepcopy(opt)
    before = snapshot(opt, p)
    other.beta1 = 0.5
    other.step(np.ones(3))
    assert_unchanged(before, snapshot(opt, p))
    assert opt.beta1 == 0.9


def test_options_and_hyperparameters_survive():
    opt = na.Adam(np.ones(3), lr=halving, beta1=0.5, eps=1e-3, amsgrad=True, eps_form="hat")
    opt.beta2 = 0.75
    again = pickle.loads(pickle.dumps(opt))
    assert repr(again) == repr(opt)
    assert again.lr is halving
    opt.step(np.full(3, 0.1))
    again.step(np.full(3, 0.1))
    assert_same_bits(again.params, opt.params)

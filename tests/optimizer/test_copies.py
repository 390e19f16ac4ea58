"""Pickles and deep copies of an optimiser: runs that go on with the same bits."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numadam as na
from tests.bits import assert_same_bits
from tests.runs import meanwhile

COPIES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "pickle protocol 2": lambda x: pickle.loads(pickle.dumps(x, 2)),
    "deepcopy": copy.deepcopy,
}


def test_a_pickle_holds_the_parameters_and_their_values():
    """The arrays, which others in the pickle may share, and their values at the optimiser's t."""
    params = [np.random.default_rng(0).standard_normal(50_000) for _ in range(2)]
    size = sum(p.nbytes for p in params)
    opt = na.Adam(params)
    opt.step([np.ones(50_000)] * 2)
    assert opt.grads[0].size == 50_000  # the gradients are not state
    assert len(pickle.dumps((params, opt))) < 4 * size + 20_000  # p, its values, m, v
    assert len(pickle.dumps(opt)) < 4 * size + 20_000


class Step:
    """Takes a step when it is copied or pickled: what another thread may do at that moment."""

    def __init__(self, opt):
        self.opt = opt

    def __reduce__(self):
        self.opt.step(np.full(5, -1.0))
        return str, ()


def assert_of_one_moment(x, opt):
    assert opt.params is x
    np.testing.assert_array_equal(x, opt.t)  # each step of SGD adds 1


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_beside_its_parameters_is_of_one_moment(how):
    """Pickle and deepcopy take x first, and the optimiser after further steps."""
    opt = na.SGD(np.zeros(5), lr=1.0)
    copies = COPIES[how]({"x": opt.params, "steps": Step(opt), "opt": opt, "after": Step(opt)})
    assert (opt.t, copies["opt"].t) == (2, 1)
    assert_of_one_moment(copies["x"], copies["opt"])
    copies = COPIES[how]({"opt": opt, "steps": Step(opt), "x": opt.params})
    assert copies["opt"].t == 2
    assert_of_one_moment(copies["x"], copies["opt"])


def test_buffers_out_of_band_are_of_one_moment():
    """Pickle hands out x itself, and whoever writes it reads it later."""
    opt, buffers = na.SGD(np.zeros(5), lr=1.0), []
    opt.step(np.full(5, -1.0))
    text = pickle.dumps({"x": opt.params, "opt": opt}, 5, buffer_callback=buffers.append)
    opt.step(np.full(5, -1.0))
    loaded = pickle.loads(text, buffers=[bytearray(buffer.raw()) for buffer in buffers])
    assert loaded["opt"].t == 1
    assert_of_one_moment(loaded["x"], loaded["opt"])


def test_a_pickle_is_whole_while_another_thread_steps():
    opt = na.SGD(np.zeros(50_000), lr=1.0)
    with meanwhile(lambda: opt.step(np.full(50_000, -1.0))):
        for how in list(COPIES.values()) * 10:
            loaded = how(opt)
            assert_of_one_moment(loaded.params, loaded)


def test_a_shallow_copy_steps_the_same_parameters():
    opt = na.Adam(np.ones(3), lr=0.1)
    opt.step(np.ones(3))
    other, m = copy.copy(opt), opt.state["m"].copy()
    assert other.params is opt.params
    other.step(np.ones(3))
    assert (opt.t, other.t) == (1, 2)
    assert_same_bits(opt.state["m"], m)


def test_a_copy_leaves_parameters_outside_of_their_bounds():
    """As a load does: only a new optimiser moves them."""
    x = np.ones(3)
    opt = na.Adam(x, bounds=(0.0, 2.0))
    x[:] = 5.0
    copied = copy.copy(opt)
    assert copied.params is x
    assert (x == 5.0).all()

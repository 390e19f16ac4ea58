"""`opt.state`: views of the moments, assigned by copy.

Pickles and deep copies of an optimiser: runs that go on with the same bits.

`opt.reset()`, `opt.t = k` and `opt.current_lr`: where an optimiser stands, and goes on from.
"""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import numadam as na
from tests.bits import RULES, assert_same_bits
from tests.runs import SINK, digest, meanwhile, tree_of
from tests.trees import (
    assert_leaves,
    assert_same_containers,
    assert_unchanged,
    snapshot,
    tree_leaves,
    tree_map,
)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("adam paper", ["t", "m", "v"]),
        ("adam paper amsgrad", ["t", "m", "v", "vmax"]),
        ("rmsprop", ["t", "v"]),
        ("sgd", ["t"]),
        ("sgd momentum", ["t", "m"]),
    ],
)
def test_state_is_a_mapping_of_views(name, keys):
    params = tree_of(0)
    opt = RULES[name][0](params, 0.1)
    assert list(opt.state) == keys
    assert len(opt.state) == len(keys)
    assert "x" not in opt.state
    with pytest.raises(KeyError):
        opt.state["x"]
    with pytest.raises(TypeError, match="cannot be deleted"):
        del opt.state["t"]
    t = opt.state["t"]
    assert (type(t), t.shape, t.dtype, int(t)) == (np.ndarray, (), np.int64, 0)
    views = {key: opt.state[key] for key in keys if key != "t"}
    for tree in views.values():
        assert_same_containers(tree_map(lambda a: 0, tree), tree_map(lambda a: 0, params))
        assert not any(a.any() for a in tree_leaves(tree))
        assert [a.shape for a in tree_leaves(tree)] == [p.shape for p in tree_leaves(params)]
    opt.step(tree_of(1))
    assert int(t) == 1  # it shows the counter itself
    for key, tree in views.items():
        assert any(a.any() for a in tree_leaves(tree))
        for a in tree_leaves(tree):  # and what is written into a view is the state
            a[...] = 0.5
        assert_leaves(opt.state[key], tree_leaves(tree))


SQUARES = [
    (na.Adam, {"amsgrad": True}, "vmax"),
    (na.AdaMax, {}, "u"),
    (na.RMSprop, {"centered": True, "momentum": 0.9}, "v"),
]


@pytest.mark.parametrize(("rule", "options", "name"), SQUARES)
def test_squares_below_zero_are_refused_and_all_else_is_loaded(rule, options, name):
    opt = rule({"w": np.ones((2, 3)), "b": np.ones(())}, **options)
    opt.step({"w": np.ones((2, 3)), "b": np.ones(())})
    for bad in (-1e-300, -np.inf):
        saved = opt.state.copy()
        before = snapshot(opt)
        saved["t"], saved[name]["w"][1, 2] = 7, bad
        with pytest.raises(ValueError, match=rf"^state\['{name}'\]\['w'\]: expected numbers >= 0"):
            opt.state = saved
        with pytest.raises(ValueError, match=rf"^state\['{name}'\]\['w'\]: expected numbers >= 0"):
            opt.state[name] = saved[name]
        assert_unchanged(before, snapshot(opt))
    # a run with NaN or inf may be saved and gone on with; other moments have any sign
    for key in set(opt.state) - {"t"} - set(opt.state.keys() - rule.rule.state):
        for odd in (np.nan, np.inf, -0.0, -1.0):
            if odd == -1.0 and key in rule.rule.nonnegative:
                continue
            saved = opt.state.copy()
            saved[key]["w"][1, 2] = odd
            opt.state = saved
            assert_leaves(opt.state[key], tree_leaves(saved[key]))


def test_state_lies_as_the_params_lie():
    p = np.asfortranarray(np.ones((3, 4)))
    opt = na.Adam(p)
    assert opt.state["m"].flags.f_contiguous
    turned = np.ones((2, 3, 4)).transpose(1, 2, 0)
    assert na.Adam(turned).state["v"].strides == turned.strides


def test_state_of_another_optimiser_and_of_itself():
    a, b = na.Adam([np.ones(3), np.ones(2)]), na.Adam([np.ones(3), np.ones(2)])
    a.step([np.full(3, 2.0), np.full(2, 3.0)])
    b.state = a.state
    assert b.t == 1
    assert_leaves(b.state["m"], tree_leaves(a.state["m"]))
    a.state["m"] = a.state["v"]
    assert_leaves(a.state["m"], tree_leaves(b.state["v"]))
    assert a.t == 1
    swapped = na.Adam([np.ones(2), np.ones(2)])
    swapped.step([np.full(2, 1.0), np.full(2, 2.0)])
    first, second = (v.copy() for v in swapped.state["v"])
    swapped.state["v"] = swapped.state["v"][::-1]
    assert_leaves(swapped.state["v"], [second, first])


def test_state_takes_t_alone():
    opt = na.Adam(np.ones(3))
    for t in (7, np.int64(8), np.array(9), 10.0):
        opt.state["t"] = t
        assert opt.t == t
    with pytest.raises(ValueError, match="read-only"):
        opt.state["t"][...] = -1
    assert opt.t == 10


#: entries that are arrays: tests/arrays/test_refused_arrays.py; other values of t: below
BAD_STATES = {
    "missing": (lambda s: {"t": s["t"], "m": s["m"]}, ValueError, r"expected the entries .*'v'"),
    "too much": (lambda s: {**s, "vmax": s["m"]}, ValueError, r"expected the entries .*'vmax'"),
    "empty": (lambda s: {}, ValueError, r"^state: expected the entries"),
    "t": (lambda s: {**s, "t": 1.5}, ValueError, r"^state\['t'\]: "),
    "no mapping": (lambda s: 5, (TypeError, ValueError), r"^state: "),
    "structure": (lambda s: {**s, "v": s["v"][:1]}, ValueError, r"^state\['v'\]: .*\[1\]"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_bad_state_changes_nothing(case):
    spoil, error, says = BAD_STATES[case]
    params = [np.ones(3), np.ones(2)]
    opt = na.Adam(params)
    opt.step([np.ones(3), np.ones(2)])
    before = snapshot(opt, params)
    good = {"t": 9, "m": [np.zeros(3), np.zeros(2)], "v": [np.zeros(3), np.zeros(2)]}
    with pytest.raises(error, match=says):
        opt.state = spoil(good)
    assert_unchanged(before, snapshot(opt, params))


def test_state_setitem_of_an_unknown_name():
    opt = na.Adam(np.ones(3))
    with pytest.raises(KeyError, match="vmax"):
        opt.state["vmax"] = np.ones(3)


def test_a_copy_of_the_state_shares_no_memory_and_lies_as_the_parameters_do():
    params = {"f": np.asfortranarray(np.ones((3, 4))), "c": np.ones(5)}
    opt = na.NAdam(params)
    grads = {name: np.full_like(p, 2.0) for name, p in params.items()}
    for _ in range(3):
        opt.step(grads)
    saved = opt.state.copy()
    assert list(saved) == list(opt.state)
    for name, value in saved.items():
        for one, other in zip(tree_leaves(value), tree_leaves(opt.state[name]), strict=True):
            assert_same_bits(one, other)
            assert not np.shares_memory(one, other)
            assert one.strides == other.strides


@pytest.mark.parametrize("value", [[np.nan], [np.inf], [1.0, 1.0], 1.0])
def test_products_of_betas_that_cannot_be_are_refused(value):
    opt = na.Adam(np.ones(3), beta1=lambda taken: 0.9)
    opt.step(np.ones(3))
    before = snapshot(opt, opt.params)
    with pytest.raises(
        ValueError, match=r"beta1_product'\]: expected finite numbers of shape \(1,\)"
    ):
        opt.state["beta1_product"] = value
    assert_unchanged(before, snapshot(opt, opt.params))


@pytest.mark.parametrize(
    ("kind", "options"), [(na.Adam, {"ema": 0.9}), (na.SGD, {}), (na.NAdam, {})]
)
@pytest.mark.parametrize("keep", [lambda opt: opt.state, lambda opt: dict(opt.state)])
def test_a_state_that_has_changed_with_its_optimiser_restores_nothing(kind, options, keep):
    opt = kind([np.ones(3), np.zeros((0, 2))], **options)
    gradients = [np.full(3, 2.0), np.zeros((0, 2))]
    opt.step(gradients)
    live, kept = keep(opt), opt.state.copy()
    opt.step(gradients)
    for assign in (lambda: setattr(opt, "state", live), lambda: opt.state.update(live)):
        with pytest.raises(
            ValueError, match=r"^state: is this optimiser's own.*opt\.state\.copy\(\)"
        ):
            assign()
    assert opt.t == 2
    opt.state = {**live, "t": 5}  # one entry is another
    assert opt.t == 5
    opt.state = kept
    assert opt.t == 1
    for name in kept:
        if name != "t" and isinstance(kept[name], list):
            np.testing.assert_array_equal(opt.state[name][0], kept[name][0])


# --- copies --------------------------------------------------------------------------------------


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


# --- reset ---------------------------------------------------------------------------------------


def falling(taken):
    return 0.9 - 0.01 * taken


def run(opt, seeds):
    """Steps of these gradients, and what they lead to."""
    for seed in seeds:
        opt.step(tree_of(seed))
    return digest(opt)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (na.Adam, SINK),
        (na.Adam, {"beta1": falling}),
        (na.NAdam, {}),
        (na.Adagrad, {"initial_accumulator": 0.5}),
        (na.Adam, {"ema": 0.9, "ema_debias": True}),
    ],
)
def test_a_reset_optimiser_goes_on_as_a_new_one(rule, options):
    params = tree_of(0)
    opt = rule(params, **copy.deepcopy(options))
    run(opt, (1, 2, 3))
    here = tree_map(np.copy, params)
    opt.reset()
    for one, other in zip(tree_leaves(params), tree_leaves(here), strict=True):
        np.testing.assert_array_equal(one, other)
    new = rule(here, **copy.deepcopy(options))
    assert digest(opt) == digest(new)
    assert run(opt, (1, 2, 3, 4)) == run(new, (1, 2, 3, 4))


def test_reset_forgets_counters_and_norms_and_moves_into_the_bounds():
    x = np.zeros(5)
    opt = na.Adam(x, bounds=(-1.0, 1.0), clip_norm=1.0, ema=0.9, nonfinite="skip")
    opt.step(np.ones(5))
    opt.step(np.full(5, np.nan))
    assert (opt.t, opt.skipped) == (1, 1)
    opt.grads[...] = 3.0
    x[...] = 7.0
    opt.reset()
    assert (opt.t, opt.skipped) == (0, 0)
    assert np.isnan(opt.grad_norm)
    np.testing.assert_array_equal(x, 1.0)  # as in a new optimiser
    np.testing.assert_array_equal(opt.averaged, x)
    np.testing.assert_array_equal(opt.grads, 3.0)


def test_reset_waits_for_a_step_of_another_thread():
    opt = na.Adam(np.zeros(5))
    with meanwhile(lambda: opt.step(np.ones(5))):
        for _ in range(300):
            with opt._lock:
                opt.reset()
                assert opt.t == 0
                assert not opt.state["m"].any()
    # all of a step or nothing: m is a function of t alone
    np.testing.assert_allclose(opt.state["m"], 1.0 - 0.9**opt.t, rtol=1e-12)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (na.Adam, {}),
        (na.NAdam, {}),
        (na.Adam, {"beta1": falling, "beta2": 0.99}),
        (na.Adam, {"beta1": falling, "groups": {"w.*": {"beta2": 0.9}}}),
    ],
)
@pytest.mark.parametrize("k", [0, 1, 7])
def test_a_t_that_is_set_is_that_of_a_run(rule, options, k):
    """Powers and running products are those after so many steps; the arrays stay."""
    params, twins = tree_of(0), tree_of(0)
    opt, run_of = rule(params, **options), rule(twins, **options)
    run(opt, (1, 2))
    for _ in range(k):
        run_of.step(tree_map(np.zeros_like, tree_of(0)))
    products = [name for name in opt.state if name.endswith("_product")]
    opt.t = k
    assert opt.t == run_of.t == k
    for name in products:
        np.testing.assert_allclose(opt.state[name], run_of.state[name], rtol=1e-14)
    saved = dict(run_of.state)
    for name in set(saved) - {"t", *products}:
        saved[name] = opt.state[name]
    run_of.state = saved
    for one, other in zip(tree_leaves(twins), tree_leaves(params), strict=True):
        one[...] = other
    run(opt, (1, 2))
    run(run_of, (1, 2))
    for one, other in zip(tree_leaves(params), tree_leaves(twins), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("wrong", [-1, 1.5, "many", None, 2**53, np.nan])
def test_a_t_that_is_no_number_of_steps_is_refused(wrong):
    opt = na.Adam(np.zeros(2))
    with pytest.raises(ValueError, match=r"t: expected a whole number of steps >= 0 and < 2\*\*53"):
        opt.t = wrong
    with pytest.raises(ValueError, match=r"state\['t'\]: expected a whole number of steps >= 0"):
        opt.state["t"] = wrong
    assert opt.t == 0


def test_current_lr():
    cosine = na.schedules.Cosine(0.1, steps=10)
    opt = na.SGD(np.zeros(2), lr=cosine)
    for taken in range(3):
        assert type(opt.current_lr) is float
        assert opt.current_lr == cosine(taken)
        opt.step(np.ones(2))
    opt.lr = 0.5
    assert opt.current_lr == 0.5
    nested = na.Adam({name: np.zeros(2) for name in "ab"}, lr={"a": 0.1, "b": cosine})
    nested.t = 4
    assert nested.current_lr == {"a": 0.1, "b": cosine(4)}
    assert nested.lr["b"] is cosine
    negative = na.SGD(np.zeros(2), lr=lambda taken: -1.0)
    with pytest.raises(ValueError, match="lr: expected a number in"):
        _ = negative.current_lr


def read_only(x):
    x.flags.writeable = False


def resized(x):
    x.resize(3, refcheck=False)


@pytest.mark.parametrize(
    ("change", "says"), [(read_only, "^params: is read-only"), (resized, "^params: .* shape")]
)
def test_reset_of_parameters_that_no_longer_fit_changes_nothing(change, says):
    x = np.zeros(5)
    opt = na.Adam(x, bounds=(-1.0, 1.0), ema=0.9, clip_norm=1.0)
    opt.step(np.ones(5))
    saved = opt.state.copy()
    change(x)
    with pytest.raises(ValueError, match=says):
        opt.reset()
    for name, value in saved.items():
        assert_same_bits(opt.state[name], value)

"""Options that change: schedules, attributes set afterwards, and runs that go on."""

from __future__ import annotations

import copy
import math
import pickle
import sys

import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.bits import assert_same_bits
from tests.runs import SINK, digest, load_into, loaded, neutral, tree_of
from tests.trees import assert_same_containers, tree_map

# --- schedules -----------------------------------------------------------------------------------


class Told:
    """A schedule that keeps what it was asked; it cannot be hashed."""

    __hash__ = None

    def __init__(self, value):
        self.value, self.asked = value, []

    def __call__(self, taken):
        self.asked.append(taken)
        assert type(taken) is int
        return self.value


def test_schedules_are_asked_once_a_call_for_the_steps_taken():
    names = ("lr", "beta1", "beta2", "eps", "eps_root", "clip_value")
    values = (0.1, 0.9, 0.99, 1e-8, 0.1, 1.0)
    told = {name: Told(value) for name, value in zip(names, values, strict=True)}
    opt = na.Adam(
        {"a": np.ones(2), "b": np.ones(2)}, **told, groups={"b": {"beta1": told["beta1"]}}
    )
    for schedule in told.values():
        schedule.asked.clear()  # the range of a value is checked when the optimiser is made
    grads = {"a": np.ones(2), "b": np.ones(2)}
    for _ in range(3):
        opt.step(grads)
    with pytest.raises(ValueError, match="shape"):
        opt.step({"a": np.ones(2), "b": np.ones(3)})
    opt.step(grads)
    for name, schedule in told.items():
        assert schedule.asked == [0, 1, 2, 3, 3], name
    assert opt.beta1 is told["beta1"]
    assert opt.clip_value is told["clip_value"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", [-1.0, math.nan, math.inf, "x", None, np.ones(2)]),
        ("beta1", [1.0, -0.1, math.nan, "x", None]),
        ("beta2", [1.5, math.nan]),
        ("eps", [-1.0, math.inf]),
        ("weight_decay", [-1.0, math.nan]),
        ("clip_value", [0.0, -1.0, math.nan]),
    ],
)
def test_schedules_that_leave_the_range_change_nothing(name, values):
    good = {"eps": 1e-8, "weight_decay": 0.1}.get(name, 0.5)
    for bad in values:
        told = Told(good)
        opt = na.Adam(np.ones(2), **{name: told})
        opt.step(np.ones(2))
        before = digest(opt)
        told.value = bad
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected a number"):
            opt.step(np.ones(2))
        assert digest(opt) == before
        told.value = good
        opt.step(np.ones(2))
        assert opt.t == 2


def test_schedule_that_raises_changes_nothing():
    def schedule(taken):
        return 0.1 / (2 - taken)

    opt = na.Adam(np.ones(2), eps=schedule, lr=lambda taken: 0.1)
    opt.step(np.ones(2))
    opt.step(np.ones(2))
    before = digest(opt)
    with pytest.raises(ZeroDivisionError):
        opt.step(np.ones(2))
    assert digest(opt) == before


def test_schedules_are_asked_of_the_steps_taken():
    told = Told(0.1)
    opt = na.Adam(np.ones(2), lr=told, nonfinite="skip")
    told.asked.clear()
    for g in (1.0, np.nan, 1.0):
        opt.step(np.full(2, g))
    assert told.asked == [0, 1, 1]


# --- changed afterwards --------------------------------------------------------------------------


#: Options of an optimiser that was made without them.
LATER = {
    "clip_value": {"clip_value": 0.3},
    "clip_norm": {"clip_norm": 0.5},
    "clip_array_norm": {"clip_array_norm": 0.4},
    "weight_decay": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled": True, "decay_times_lr": False},
    "maximize": {"maximize": True},
    "nonfinite": {"nonfinite": "skip", "max_skips": 3},
    "bounds": {"bounds": (-0.2, 0.3)},
    "bounds by element": {"bounds": (np.linspace(-1, 0, 4), None)},
    "lr by element": {"lr": np.linspace(0.0, 0.1, 4)},
    "groups": {"groups": {"b": {"lr": 0.5, "clip_value": 0.1}}},
}


@pytest.mark.parametrize("name", LATER)
def test_an_option_that_is_set_later_holds_from_then_on(name):
    """As in an optimiser that is made with it and goes on from the same numbers, and back again."""
    options = LATER[name]
    if name == "bounds by element":
        options = {"bounds": {"a": options["bounds"], "b": None}}
    if name == "lr by element":
        options = {"lr": {"a": options["lr"], "b": 0.2}}
    params = {"a": np.linspace(-1, 1, 4), "b": np.linspace(1, -1, 3)}
    grads = [{key: np.sin(k + 3 * p) for key, p in params.items()} for k in range(9)]
    opt = na.Adam(params, lr=0.1)
    before = {key: getattr(opt, key) for key in options}
    views = opt.state["m"]
    for g in grads[:3]:
        opt.step(g)
    snapshot = opt.snapshot()
    for key, value in options.items():
        setattr(opt, key, value)
    twin = na.Adam(tree_map(np.copy, params), **{"lr": 0.1} | options)
    _go_on(twin, opt, grads[3:6])
    for key, value in reversed(before.items()):
        setattr(opt, key, value)
    twin = na.Adam(tree_map(np.copy, params), lr=0.1)
    _go_on(twin, opt, grads[6:])
    assert np.shares_memory(views["a"], opt.state["m"]["a"])
    opt.restore(snapshot)
    assert opt.t == 3


def _go_on(twin, opt, grads):
    """Let an optimiser take the steps of another one, and compare them."""
    twin.state = {key: opt.state.get(key, 0) for key in twin.state}
    for g in grads:
        opt.step(g)
        twin.step(g)
    assert digest(twin) == digest(opt)


def test_another_loop_is_compiled_at_the_assignment(monkeypatch):
    opt = na.Adam(np.ones(3))
    opt.step(np.ones(3))
    opt.clip_value = 0.5

    def compiled(*args, **options):
        raise AssertionError("compiled inside a step")

    for module in [m for n, m in sys.modules.items() if n.startswith("numadam.")]:
        if hasattr(module, "compiled"):
            monkeypatch.setattr(module, "compiled", compiled)
    opt.step(np.ones(3))
    assert opt.t == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(("name", "value"), [("bounds", (0.0, 0.5)), ("clip_norm", 1.0)])
def test_an_assignment_that_fails_leaves_the_option_as_it_was(name, value, error, monkeypatch):
    opt = na.Adam(np.ones(3))
    opt.step(np.ones(3))
    twin = copy.deepcopy(opt)

    def fail(*args):
        raise error("meanwhile")

    with monkeypatch.context() as patch:
        patch.setattr(type(opt._backend), "with_settings", fail)
        with pytest.raises(error):
            setattr(opt, name, value)
    assert getattr(opt, name) is None
    opt.step(np.ones(3))
    twin.step(np.ones(3))
    assert digest(opt) == digest(twin)


def test_changes_that_need_other_state_are_refused():
    opt = na.Adam(np.ones(2))
    for name, value in {"ema": 0.9, "beta1": lambda taken: 0.9}.items():
        with pytest.raises(ValueError, match=f"^{name}: cannot change from .* that needs other"):
            setattr(opt, name, value)
    with pytest.raises(ValueError, match=r"^momentum: cannot change from 0\.0 to 0\.9: that needs"):
        na.SGD(np.ones(2)).momentum = 0.9
    with pytest.raises(ValueError, match=r"^groups: .* that needs other state"):
        na.Adam({"a": np.ones(2), "b": np.ones(2)}).groups = {"a": {"frozen": True}}
    for name, value in {"weight_decay": -1.0, "eps": math.nan, "clip_value": 0.0}.items():
        with pytest.raises(ValueError, match=f"^{name}: expected a number"):
            setattr(opt, name, value)
    with pytest.raises(ValueError, match=r"^bounds: lo is above hi"):
        opt.bounds = (1.0, 0.0)
    with pytest.raises(ValueError, match=r"^max_skips: needs nonfinite='skip'"):
        opt.max_skips = 3
    for name in ("sparse", "count", "complex_form", "like", "comm", "ema_debias"):
        with pytest.raises(AttributeError, match=f"^{name}: cannot be changed"):
            setattr(opt, name, getattr(opt, name))
    with pytest.raises(ValueError, match=r"^beta2: 1\.0 is only possible with eps_form='hat'"):
        opt.beta2 = 1.0
    with pytest.raises(ValueError, match=r"^clip_array_norm: clips each array by itself"):
        na.Adam(np.ones(2), clip_array_norm=1.0).clip_norm = 1.0
    averaging = na.Adam(np.ones(2), ema=0.9, ema_debias=True)
    averaging.ema = 0.9
    with pytest.raises(ValueError, match=r"^ema: ema_debias divides"):
        averaging.ema = 0.5
    opt.step(np.ones(2))
    assert opt.t == 1


def test_options_are_those_of_the_moment_the_optimiser_was_made():
    """Arrays among them are copied: later changes of theirs would be ignored, or half heeded."""
    low, lr = np.zeros(2), np.full(2, 0.1)
    groups, bounds = {"a": {"lr": lr}}, {"a": (low, None)}
    p, q = {"a": np.ones(2)}, {"a": np.ones(2)}
    opt = na.Adam(p, **neutral(p, bounds=bounds, groups=groups, lr=0.3))
    twin = copy.deepcopy(na.Adam(q, **neutral(q, bounds=bounds, groups=groups, lr=0.3)))
    q = twin.params
    lr[:], low[:] = 0.0, 0.9
    groups["a"]["lr"] = 0.0
    again = copy.deepcopy(opt)
    for one in (opt, twin, again):
        for _ in range(5):
            one.step({"a": np.ones(2)})
    assert_same_bits(p["a"], q["a"])
    assert_same_bits(again.params["a"], q["a"])


# --- resumed -------------------------------------------------------------------------------------


RESUMED = {
    "all together": SINK,
    "running products": {"beta1": na.schedules.Polynomial(0.9, steps=18), "beta2": 0.99},
    "debiased": {**SINK, "ema_debias": True},
    "changed afterwards": {**SINK, "then": {"clip_norm": 0.1, "ema": 0.5, "weight_decay": 0.5}},
    "groups": {
        "nonfinite": "skip",
        "groups": {
            "w": {"beta1": 0.5, "weight_decay": na.schedules.Exponential(0.1, factor=0.5)},
            "0-d": {"frozen": True},
            "strided": {"lr": np.linspace(0.0, 0.1, 5)},
        },
    },
}


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state", "na.load", "opt.load"])
@pytest.mark.parametrize("name", RESUMED)
def test_resumed_with_the_same_bits(name, way):
    """With a skipped step behind."""
    options = copy.deepcopy(RESUMED[name])
    then, dtype = options.pop("then", {}), options.pop("dtype", "float64")
    opt = na.Adam(tree_of(0, dtype), **options)
    for key, value in then.items():
        setattr(opt, key, value)
    bad = tree_map(lambda a: np.full_like(a, np.nan), tree_of(1, dtype))
    for k in range(5):
        opt.step(bad if k == 3 and name != "running products" else tree_of(k, dtype))
    if way == "pickle":
        twin = pickle.loads(pickle.dumps(opt))
    elif way == "deepcopy":
        twin = copy.deepcopy(opt)
    elif way == "na.load":
        twin = loaded(opt)
    elif way == "opt.load":
        twin = load_into(na.Adam(tree_of(9, dtype), **copy.deepcopy(options)), opt)
    else:
        twin = na.Adam(tree_map(np.copy, opt.params), **copy.deepcopy(options))
        for key, value in then.items():
            setattr(twin, key, value)
        twin.state = copy.deepcopy(dict(opt.state))
    assert digest(twin) == digest(opt)
    assert (twin.t, twin.skipped) == (opt.t, opt.skipped)
    assert opt.skipped == (name != "running products")
    for k in range(5, 12):
        for one in (opt, twin):
            one.step(tree_of(k, dtype))
    assert digest(twin) == digest(opt)
    assert_same_containers(twin.params, opt.params)
    assert not np.shares_memory(twin.params["strided"], opt.params["strided"])


def test_state_of_other_options_is_refused():
    opt = na.Adam(np.ones(2), **neutral(np.ones(2), nonfinite="skip"))
    opt.step(np.ones(2))
    names = ["t", "skipped", "skipped_in_a_row", "m", "v", "average"]
    assert list(opt.state) == names
    before = digest(opt)
    for wrong in ({}, {"ema": 0.5}):
        with pytest.raises(ValueError, match=r"^state: expected the entries"):
            opt.state = dict(na.Adam(np.ones(2), **wrong).state)
    for value in (-1, 0.5, "x", 2**53):
        with pytest.raises(ValueError, match="expected a whole number"):
            opt.state["skipped"] = value
    with pytest.raises(ValueError, match="read-only"):
        opt.state["skipped"][...] = 0
    assert digest(opt) == before


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt)), loaded]
)
@pytest.mark.parametrize("kind", [na.AdamW, extras.sweep(na.SGD)])
def test_a_copy_keeps_a_decay_that_is_set_to_zero_for_a_while(kind, again):
    opt = kind(np.ones(3), lr=0.1, weight_decay=0.1)
    opt.step(np.ones(3))
    opt.weight_decay = 0.0
    twin = again(opt)
    assert twin.weight_decay == 0.0
    for decay in (0.0, 0.2):
        opt.weight_decay = twin.weight_decay = decay
        opt.step(np.ones(3))
        twin.step(np.ones(3))
        np.testing.assert_array_equal(twin.params, opt.params)

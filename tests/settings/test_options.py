"""The options of the one pass: each alone, all together, and under every rule."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import numadam as na
from numadam import rules
from tests import references
from tests.bits import assert_same_bits
from tests.processes import python
from tests.runs import (
    SINK,
    assert_follows,
    compiled_step,
    digest,
    neutral,
    reference_of,
    shorten_parts,
    train,
    tree_of,
    uses_parallel,
)
from tests.trees import tree_leaves, tree_map

RULES = rules.classes()
#: whose decay is decoupled unless said otherwise
DECOUPLED = ("AdamW", "NAdam", "RAdam", "AdaMax", "AdaBelief", "Lion")

# --- each alone ----------------------------------------------------------------------------------

ALONE = {
    "nothing": {},
    "maximize": {"maximize": True},
    "loss_scale": {"loss_scale": 3.7},
    "loss_scale schedule": {"loss_scale": lambda taken: 2.0**taken},
    "clip_value": {"clip_value": 0.3},
    "clip_value schedule": {"clip_value": lambda taken: 0.1 * (taken + 1)},
    "lr schedule": {"lr": lambda taken: 0.1 / (taken + 1)},
    "eps schedule": {"eps": lambda taken: 1e-8 * 10**taken},
    "beta schedules": {
        "beta1": lambda taken: 0.9 - 0.1 * taken,
        "beta2": lambda taken: 0.9 + 0.01 * taken,
    },
    "beta2 schedule": {"beta2": lambda taken: 1 - 1 / (taken + 1.5)},
    "l2": {"weight_decay": 0.3},
    "l2 schedule": {"weight_decay": lambda taken: 0.1 * taken},
    "decoupled": {"weight_decay": 0.3, "decoupled": True},
    "decoupled free of lr": {"weight_decay": 0.03, "decoupled": True, "decay_times_lr": False},
    "clip_norm": {"clip_norm": 1.3},
    "clip_norm above": {"clip_norm": 1e3},
    "clip_norm schedule": {"clip_norm": lambda taken: 1.0 + taken},
    "clip_array_norm": {"clip_array_norm": 0.7},
    "accumulate": {"accumulate": 3},
    "bounds": {"bounds": (-0.4, 0.6)},
    "bounds of one side": {"bounds": (None, 0.1)},
    "ema": {"ema": 0.7},
    "ema schedule": {"ema": lambda taken: 0.5 + 0.05 * taken},
}


@pytest.mark.option
@pytest.mark.parametrize("name", ALONE)
def test_each_alone(name):
    options = {"lr": 0.05, **ALONE[name]}
    train(tree_of(0), options, [tree_of(k) for k in range(1, 8)], check=assert_follows)


def test_torch_adds_a_margin_to_the_norm():
    """Its clip_grad_norm_ divides by norm + 1e-6."""
    calls = [tree_map(lambda a: np.asarray(1e-6 * a), tree_of(k)) for k in range(1, 4)]
    options = {"lr": 0.05, "clip_norm": 1e-6}
    params = tree_of(0)
    ref = reference_of(params, **options, margin=1e-6)
    opt = na.Adam(params, **options, like="torch")
    for grads in calls:
        opt.step(grads)
        ref.step(tree_leaves(grads))
    assert_follows(opt, ref)


# --- all together --------------------------------------------------------------------------------


def drawn(rng, decoupled):
    """Values of every option by lot; the compiled combination is always that of SINK."""
    options = {
        **copy.deepcopy(SINK),
        "decoupled": decoupled,
        "weight_decay": float(rng.choice([0.01, 0.5])),
        "maximize": bool(rng.integers(2)),
        "loss_scale": float(rng.choice([1.0, 64.0, 0.3])),
        "clip_value": [None, 0.4, 2.0][rng.integers(3)],
        "clip_norm": float(rng.choice([0.2, 3.0, 1e5])),
        "accumulate": int(rng.integers(2, 5)),
        "nonfinite": str(rng.choice(["propagate", "raise", "skip"])),
        "ema": float(rng.choice([0.0, 0.6, 0.99])),
        "beta1": float(rng.choice([0.0, 0.5, 0.9])),
        "beta2": float(rng.choice([0.5, 0.999])),
    }
    if decoupled:
        options["decay_times_lr"] = bool(rng.integers(2))
    form = rng.integers(3)
    if form:
        options["ema_warmup" if form == 1 else "ema_debias"] = True
    return options


@pytest.mark.parametrize("decoupled", [False, True], ids=["l2", "decoupled"])
@pytest.mark.parametrize("seed", range(15))
def test_all_together(seed, decoupled):
    options = drawn(np.random.default_rng(seed), decoupled)
    calls = [tree_of(100 * seed + k) for k in range(1, 14)]
    opt, ref = train(tree_of(seed), options, calls)
    assert_follows(opt, ref)
    assert opt.flush() == bool(ref.calls)
    if ref.calls:
        ref.flush()
    assert_follows(opt, ref)
    assert opt.grad_norm == pytest.approx(ref.norm, rel=1e-14)


def test_all_together_in_float32():
    calls = [tree_of(k, "float32") for k in range(1, 14)]
    train(
        tree_of(0, "float32"),
        copy.deepcopy(SINK),
        calls,
        check=lambda opt, ref: assert_follows(opt, ref, rtol=2e-5, atol=2e-6),
    )


def test_all_together_has_the_same_bits_in_any_form_thread_and_part(form, thread_count):
    """Long arrays too: the norm has many blocks, parts end anywhere."""
    rng = np.random.default_rng(3)
    sizes = {"w": [3001, 4097], "0-d": 1, "empty": 0, "strided": 700}

    def draw(n):
        return rng.standard_normal(n).astype("f4")

    params, *calls = (tree_map(draw, sizes) for _ in range(5))
    options = {**copy.deepcopy(SINK), "clip_norm": 20.0}
    options["lr"]["strided"] = np.linspace(0.0, 0.1, 700)
    options["bounds"]["strided"] = (np.linspace(-1, 0, 700), 0.8)
    found = set()
    for part in (0, None, 1 << 20, 65, 999):
        opt = na.Adam(tree_map(np.copy, params), **options)
        assert uses_parallel(opt) == (form == "parallel")
        if part == 0:  # what the others have to be: serial, in one piece
            compiled_step(opt).kernel, part = compiled_step(opt).serial, 1 << 20
        if part is not None:
            shorten_parts(opt, part)
        for grads in calls:
            opt.step(grads)
        found.add((digest(opt), opt.grad_norm.hex()))
    assert len(found) == 1


LAYERS = """
import numba
from numadam._jit import threads
threads.CUTOVER["workqueue"] = 100_000  # smaller than it pays, so that threads run there, too
rng = np.random.default_rng(0)
shapes = [(70_001,), (300, 301), (), (0, 3)]
p, *calls = ([np.asarray(rng.standard_normal(s), "f4") for s in shapes] for _ in range(3))
bounds = [(np.zeros(s), None) for s in shapes]
options = {"lr": [np.full(s, 0.01) for s in shapes], "bounds": bounds}
options |= {"weight_decay": 0.1, "decoupled": True, "accumulate": 2, "clip_norm": 3.0, "ema": 0.9}
opt = na.Adam(p, **options)
for g in 2 * calls:
    opt.step(g)
run = chosen(opt)
kind = "serial" if run.kernel is run.serial else "parallel"
total = sum(float(abs(a).sum(dtype=float)) for a in p)
print(kind, numba.get_num_threads(), opt.grad_norm.hex(), total.hex())
"""


def test_norm_has_the_same_bits_in_any_layer():
    found = {}
    for layer in ("tbb", "omp", "workqueue"):
        for threads in ("1", "2") if layer == "omp" else ("2",):
            env = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": threads}
            kind, count, *bits = python(LAYERS, **env).split()
            assert count == threads
            assert kind == "parallel"
            found[layer, threads] = bits
    assert len(set(map(tuple, found.values()))) == 1, found


def test_layouts_have_the_same_bits():
    """Strided, F-ordered, unaligned: each through its work array, all options at once."""
    rng = np.random.default_rng(8)
    start, *calls = (rng.standard_normal((6, 7)).astype("f4") for _ in range(5))
    options = neutral(start, lr=np.full((6, 1), 0.1), weight_decay=0.1, decoupled=True)
    options |= {"clip_norm": 1.0, "bounds": (np.linspace(-1, 0, 7), 0.5)}

    def window(a):
        room = np.full((8, 16), 77, a.dtype)
        room[1:7, 1:15:2] = a
        return room[1:7, 1:15:2]

    def unaligned(a):
        copied = np.ndarray(a.shape, a.dtype, np.zeros(a.nbytes + 1, np.uint8), 1)
        copied[...] = a
        return copied

    kinds = [np.copy, np.asfortranarray, window, unaligned, lambda a: a[::-1].copy()[::-1]]
    for of_params in kinds:
        for of_grads in kinds:
            opt = na.Adam(of_params(start), **options)
            for g in calls:
                opt.step(of_grads(g))
            if of_params is np.copy and of_grads is np.copy:
                expected = opt
            for name in ("m", "v", "average", "accumulated"):
                assert_same_bits(opt.state[name], expected.state[name], name)
            assert_same_bits(np.ascontiguousarray(opt.params), expected.params)
            if of_params is window:
                assert (opt.params.base[::7] == 77).all()
                assert (opt.params.base[:, ::2] == 77).all()


# --- every rule ----------------------------------------------------------------------------------

#: what the reference of a rule needs to be told
TOLD = {"RAdam": {"eps_form": "hat"}, "SGD": {"momentum": 0.9}}


@pytest.mark.rule
@pytest.mark.option
@pytest.mark.parametrize("name", RULES)
def test_every_rule_gets_the_gradient_that_the_options_make(name):
    """Turned, unscaled and clipped outside, it goes into the rule's own reference."""
    rng = np.random.default_rng(4)
    start, *calls = rng.standard_normal((9, 7))
    own = TOLD.get(name, {})
    no_decay = {"weight_decay": 0.0}  # with it the golden runs
    options = {"maximize": True, "loss_scale": 0.5, "clip_value": 1.2, **own, **no_decay}
    opt = RULES[name](start.copy(), 0.03, **options)
    assert opt.decoupled == (name in DECOUPLED)
    for g in calls:
        opt.step(g)
    reference = references.steps(name.lower())
    seen = [np.clip(-g / 0.5, -1.2, 1.2) for g in calls]
    p, state = reference(start, seen, lr=0.03, **own)
    np.testing.assert_allclose(opt.params, p, rtol=1e-11)
    for key in state:
        np.testing.assert_allclose(np.squeeze(opt.state[key]), state[key], rtol=1e-11, err_msg=key)

"""The options of the one pass: each alone, all together, their order, and what is refused."""

# ruff: noqa: F811  (fixtures are imported, and their names used for other things too)
from __future__ import annotations

import copy
import hashlib
import math
import pickle

import numpy as np
import pytest
import reference_rules
from reference_options import Steps
from test_arrays import assert_same_containers, tree_leaves, tree_map
from test_bits import shorten_parts, thread_count, twin, uses_parallel  # noqa: F401  (fixtures)
from test_host import python
from test_rules import assert_same_bits

import numadam as na
from numadam import rules

RULES = rules.classes()
#: whose decay is decoupled unless said otherwise
DECOUPLED = ("AdamW", "NAdam", "RAdam", "AdaMax", "AdaBelief", "Lion")


def tree_of(seed, dtype="float64"):
    """Nested arrays: C and F order, strided, of 0 axes, and without elements."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    return {
        "w": [draw(3, 4), np.asfortranarray(draw(5, 3))],
        "0-d": draw(1).reshape(()),
        "empty": draw(0, 3),
        "strided": draw(10)[::2],
    }


#: all at once: one compiled combination for each dtype and kind of decay
SINK = {
    "lr": {"w": [0.05, 0.02], "0-d": 0.1, "empty": 0.1, "strided": np.linspace(0.0, 0.1, 5)},
    "weight_decay": 0.1,
    "decoupled": True,
    "loss_scale": 8.0,
    "clip_value": 1.5,
    "clip_norm": 2.0,
    "accumulate": 2,
    "nonfinite": "skip",
    "bounds": {
        "w": [(-0.5, 1.0), (None, None)],
        "0-d": (None, 0.25),
        "empty": (0.0, 1.0),
        "strided": (np.array([-1.0, -0.5, -np.inf, 0.0, 0.1]), 0.8),
    },
    "ema": 0.8,
}


def zero(taken):
    return 0.0


def neutral(params, **options):
    """The compiled combination of SINK, but no option does anything until it is given."""
    every = {
        "lr": tree_map(lambda a: np.full_like(a, 0.1), params),
        "bounds": tree_map(lambda a: (np.full_like(a, -np.inf), None), params),
        "weight_decay": zero,  # what is callable may become anything
        "clip_norm": math.inf,
        "accumulate": 2,
        "ema": 0.5,
    }
    return {**every, **options}


def reference_of(params, **options):
    """The reference for nested parameters: what is nested becomes a list."""
    options = {key: value for key, value in options.items() if key not in ("nonfinite", "groups")}
    options["decoupled"] = options.get("decoupled", False)
    if isinstance(options.get("lr"), dict):
        options["lr"] = [*options["lr"].pop("w"), *options["lr"].values()]
    if isinstance(options.get("bounds"), dict):
        options["bounds"] = [*options["bounds"].pop("w"), *options["bounds"].values()]
    return Steps(tree_leaves(params), **options)


def assert_follows(opt, ref, rtol=1e-12, atol=1e-13):
    """Parameters, state and average of an Adam are those of the reference."""
    names = {"m": ref.m, "v": ref.v}
    got = {name: tree_leaves(opt.state[name]) for name in names}
    names["p"], got["p"] = ref.p, tree_leaves(opt.params)
    if opt.ema is not None:
        names["average"], got["average"] = ref.averaged, tree_leaves(opt.averaged)
    for name, expected in names.items():
        for one, other in zip(got[name], expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=rtol, atol=atol, err_msg=name)
    assert opt.t == ref.t


def train(params, options, calls, *, check=None):
    """An Adam after some calls, beside its reference."""
    ref = reference_of(params, **copy.deepcopy(options))
    opt = na.Adam(params, **options)
    for grads in calls:
        opt.step(grads)
        ref.step(tree_leaves(grads))
        if check is not None:
            check(opt, ref)
    return opt, ref


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


def test_all_together_has_the_same_bits_in_any_twin_thread_and_part(twin, thread_count):
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
        assert uses_parallel(opt) == (twin == "parallel")
        if part == 0:  # what the others have to be: serial, in one piece
            opt._engine._pass.kernel, part = opt._engine._pass.serial, 1 << 20
        if part is not None:
            shorten_parts(opt, part)
        for grads in calls:
            opt.step(grads)
        found.add((digest(opt), opt.grad_norm.hex()))
    assert len(found) == 1


def digest(opt):
    """All that an optimiser holds, in 16 letters."""
    words = hashlib.sha256()
    for tree in (opt.params, *(opt.state[name] for name in opt.state)):
        for leaf in tree_leaves(tree):
            words.update(np.ascontiguousarray(leaf).tobytes())
    return words.hexdigest()[:16]


LAYERS = """
import numba
rng = np.random.default_rng(0)
shapes = [(70_001,), (300, 301), (), (0, 3)]
p, *calls = ([np.asarray(rng.standard_normal(s), "f4") for s in shapes] for _ in range(3))
bounds = [(np.zeros(s), None) for s in shapes]
options = {"lr": [np.full(s, 0.01) for s in shapes], "bounds": bounds}
options |= {"weight_decay": 0.1, "decoupled": True, "accumulate": 2, "clip_norm": 3.0, "ema": 0.9}
opt = na.Adam(p, **options)
for g in 2 * calls:
    opt.step(g)
run = opt._engine._pass
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
            assert kind == ("serial" if layer == "workqueue" else "parallel")
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
    reference = getattr(reference_rules, {"AdamW": "adam"}.get(name, name.lower()))
    seen = [np.clip(-g / 0.5, -1.2, 1.2) for g in calls]
    p, state = reference(start, seen, lr=0.03, **own)
    np.testing.assert_allclose(opt.params, p, rtol=1e-11)
    for key in state:
        np.testing.assert_allclose(np.squeeze(opt.state[key]), state[key], rtol=1e-11, err_msg=key)


# --- the order of a step -------------------------------------------------------------------------


def seen(p, g, **options):
    """The gradient as it reaches the rule, in one step: with beta1 = 0 it is the first moment."""
    p, g = np.array(p, float), np.array(g, float)
    opt = na.Adam(p, beta1=0.0, **neutral(p, **options))
    opt.step(g)
    opt.flush()
    return opt.state["m"].tolist(), opt


def test_norm_is_of_the_gradient_before_it_is_clipped_by_value():
    m, opt = seen([0.0, 0.0], [3.0, 4.0], clip_value=3.5, clip_norm=1.0)
    assert opt.grad_norm == 5.0
    assert m == pytest.approx([3 / 5, 3.5 / 5], rel=1e-15)


def test_gradient_is_unscaled_before_it_is_clipped():
    m, opt = seen([0.0, 0.0], [300.0, -400.0], loss_scale=100.0, clip_norm=1.0, maximize=True)
    assert opt.grad_norm == 5.0
    assert m == pytest.approx([-3 / 5, 4 / 5], rel=1e-15)
    assert seen([0.0], [8.0], loss_scale=4.0, clip_value=3.0, clip_norm=9.0)[0] == [2.0]


def test_l2_decay_is_not_clipped():
    m, opt = seen([10.0, 0.0], [30.0, 40.0], clip_norm=1.0, clip_value=100.0, weight_decay=1.0)
    assert opt.grad_norm == 50.0
    assert m == pytest.approx([0.6 + 10.0, 0.8], rel=1e-15)


def test_mask_of_the_bounds_comes_before_norm_and_guard():
    """An outward gradient counts for nothing, an infinite one too: x would not move."""
    box = {"bounds": (np.zeros(3), 2.0)}
    m, opt = seen([0.0, 1.0, 2.0], [7.0, 3.0, -9.0], clip_norm=1.0, **box)
    assert opt.grad_norm == 3.0
    assert m == [0.0, 1.0, 0.0]
    m, opt = seen([0.0, 1.0, 2.0], [np.inf, 3.0, 4.0], nonfinite="raise", **box)
    assert opt.grad_norm == 5.0
    assert m == [0.0, 3.0, 4.0]
    m, _ = seen([0.0, 1.0, 2.0], [5.0, 3.0, 5.0], maximize=True, **box)
    assert m == [-5.0, -3.0, 0.0]


def test_accumulated_gradients_are_masked_clipped_and_guarded_as_their_mean():
    """Alone the second would be masked, the first clipped to another direction."""
    p = np.array([0.0, 1.0])
    options = {"bounds": (np.zeros(2), None), "clip_norm": 1.0, "nonfinite": "raise"}
    opt = na.Adam(p, beta1=0.0, **neutral(p, **options))
    opt.step(np.array([-9e200, 0.0]))
    assert math.isnan(opt.grad_norm)
    opt.step(np.array([3e200, -8e200]))
    assert opt.grad_norm == pytest.approx(5e200, rel=1e-15)
    np.testing.assert_allclose(opt.state["m"], [-0.6, -0.8], rtol=1e-15)


def test_decoupled_decay_then_bounds_then_average():
    """Decay may not carry a parameter out of its box, and the average follows what is inside."""
    p = np.array([1.0, 4.0])
    options = {"weight_decay": 0.5, "decoupled": True, "bounds": (np.ones(2), 4.0)}
    opt = na.Adam(p, decay_times_lr=False, **neutral(p, **options))
    for _ in range(2):
        opt.step(np.zeros(2))
    assert p.tolist() == [1.0, 2.0]
    assert opt.averaged.tolist() == [1.0, 3.0]


# --- clipping numbers of any size ----------------------------------------------------------------


SIZES = [
    ("float32", 1e20, 1.0),
    ("float32", 8e37, 1e-3),
    ("float32", 1e-30, 1e-32),
    ("float32", 1e20, 1e-20),  # the factor is no normal number
    ("float32", 1e-37, 1e10),
    ("float64", 1e200, 1.0),
    ("float64", 4e307, 1e-3),
    ("float64", 1e-200, 1e-203),
    ("float64", 1e300, 1e-10),
    ("float64", 3e-308, 1.0),
]


def clipped_exactly(g, limit):
    """Norm and clipped gradient in long double, where nothing overflows."""
    exact = g.astype(np.longdouble)
    size = np.sqrt(np.sum(exact * exact))
    return float(size), (exact * min(np.longdouble(1), np.longdouble(limit) / size)).astype(g.dtype)


@pytest.mark.parametrize(("dtype", "size", "limit"), SIZES)
def test_clip_keeps_the_direction(dtype, size, limit):
    """The issue's 1e20 in float32, and whatever else is finite; of a mean as well."""
    g = (np.array([3.0, -4.0, 0.0, 1.0]) * size).astype(dtype)
    params = [np.zeros(4, dtype), np.zeros(3, dtype)]
    norm, expected = clipped_exactly(g, limit)
    most = float(np.finfo(dtype).max)
    for count in (1, 2) if size < most / 8 else (1,):  # the sum of two may not overflow
        options = neutral(params, clip_norm=limit, decoupled=True)
        opt = na.Adam(params, beta1=0.0, **options)
        for _ in range(count):
            opt.step([g, np.zeros(3, dtype)])
        opt.flush()
        assert opt.grad_norm == pytest.approx(norm, rel=1e-15, abs=0)
        rtol = 3 * np.finfo(dtype).eps
        np.testing.assert_allclose(opt.state["m"][0], expected, rtol=rtol)
        assert (opt.state["m"][1] == 0).all()


@pytest.mark.parametrize(("dtype", "size", "limit"), SIZES[5:])
def test_clip_of_each_array_keeps_the_direction(dtype, size, limit):
    grads = [np.array([3.0, -4.0, 0.0, 1.0]) * size, np.array([0.5, 0.0])]
    opt = na.Adam([np.zeros(4), np.zeros(2)], beta1=0.0, clip_array_norm=limit)
    opt.step(grads)
    for k, g in enumerate(grads):
        norm, expected = clipped_exactly(g, limit)
        assert opt.grad_norm[k] == pytest.approx(norm, rel=1e-15, abs=0)
        np.testing.assert_allclose(opt.state["m"][k], expected, rtol=1e-15)


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1.2e-308])
def test_norm_of_the_smallest_numbers(size):
    opt = na.Adam(np.zeros(2), clip_norm=math.inf)
    opt.step(np.array([3 * size, 4 * size]))
    assert opt.grad_norm == pytest.approx(5 * size, rel=1e-15, abs=0)


def test_each_array_is_measured_anew_when_another_leaves_the_range():
    """The second array asks for another pass over all; the first has a factor of two steps."""
    grads = [np.array([3e149, 4e149]), np.zeros(2)]
    opt = na.Adam([np.zeros(2), np.zeros(2)], beta1=0.0, clip_array_norm=1e-160)
    opt.step(grads)
    assert opt.grad_norm == pytest.approx([5e149, 0.0], rel=1e-15)
    np.testing.assert_allclose(opt.state["m"][0], [6e-161, 8e-161], rtol=1e-15)


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
    names = ("lr", "beta1", "beta2", "eps", "eps_root", "loss_scale", "clip_value")
    values = (0.1, 0.9, 0.99, 1e-8, 0.1, 2.0, 1.0)
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
    assert opt.loss_scale is told["loss_scale"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("beta1", [1.0, -0.1, math.nan, "x", None]),
        ("beta2", [1.5, math.nan]),
        ("eps", [-1.0, math.inf]),
        ("weight_decay", [-1.0, math.nan]),
        ("loss_scale", [0.0, math.inf]),
        ("clip_value", [0.0, -1.0, math.nan]),
    ],
)
def test_schedules_that_leave_the_range_change_nothing(name, values):
    good = {"eps": 1e-8, "weight_decay": 0.1, "loss_scale": 1.0}.get(name, 0.5)
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


def test_schedule_while_gradients_are_added_up():
    """Asked at every call, of the steps taken: the value of the last call is the step's."""
    told = Told(0.1)
    opt = na.Adam(np.ones(2), accumulate=2, loss_scale=told)
    told.asked.clear()
    for _ in range(4):
        opt.step(np.ones(2))
    assert told.asked == [0, 0, 1, 1]


# --- unknown and refused -------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_unknown_options_are_refused_with_a_guess(name):
    for wrong, guess in {
        "weight_decoy": "Did you mean 'weight_decay'?",
        "clipnorm": "Did you mean 'clip_norm'?",
        "clip_grad_norm": "Did you mean 'clip_",
        "maximise": "Did you mean 'maximize'?",
        "group": "Did you mean 'groups'?",
        "qqq": "See numadam.Optimizer",
    }.items():
        with pytest.raises(TypeError) as caught:
            RULES[name](np.ones(2), **{wrong: 1.0})
        text = str(caught.value)
        assert text.startswith(f"{name}: there is no option {wrong!r}."), text
        assert guess in text


BARE = {
    "adam_update": lambda **options: na.adam_update(*np.ones((4, 2)), 1, **options),
    "sgd_update": lambda **options: na.sgd_update(*np.ones((2, 2)), **options),
    "rmsprop_update": lambda **options: na.rmsprop_update(*np.ones((3, 2)), **options),
}


@pytest.mark.parametrize("name", BARE)
def test_bare_face_refuses_what_needs_an_object(name):
    with pytest.raises(TypeError, match=f"^{name}: there is no option 'weight_decoy'"):
        BARE[name](weight_decoy=1.0)
    for option, value in {
        "ema": 0.9,
        "accumulate": 2,
        "nonfinite": "raise",
        "groups": {},
        "master": True,
        "sparse": "lazy",
        "clip_array_norm": 1.0,
    }.items():
        with pytest.raises(TypeError, match=f"^{name}: {option} needs arrays or counters"):
            BARE[name](**{option: value})
    with pytest.raises(TypeError, match=r"^weight_decay: expected the number of this step"):
        BARE[name](weight_decay=lambda taken: 0.1)
    for end in (np.zeros(2), np.zeros(1)):
        with pytest.raises(ValueError, match="bounds are two numbers here"):
            BARE[name](bounds=(end, None))
    with pytest.raises(TypeError, match=r"^bounds: expected a pair"):
        BARE[name](bounds=3.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weight_decay": -0.1}, "weight_decay: expected a number in [0, inf)"),
        ({"weight_decay": None}, "weight_decay: expected a number"),
        ({"weight_decay": True}, "weight_decay: expected a number"),
        ({"loss_scale": 0.0}, "loss_scale: expected a number in (0, inf)"),
        ({"loss_scale": math.inf}, "loss_scale: expected a number in (0, inf)"),
        ({"clip_value": 0.0}, "clip_value: expected a number in (0, inf]"),
        ({"clip_norm": -1.0}, "clip_norm: expected a number in (0, inf]"),
        ({"clip_norm": math.nan}, "clip_norm: expected a number in (0, inf]"),
        ({"clip_array_norm": "1"}, "clip_array_norm: expected a number"),
        ({"ema": 1.0}, "ema: expected a number in [0, 1)"),
        ({"maximize": 1}, "maximize: expected True or False"),
        ({"decoupled": "yes"}, "decoupled: expected True or False"),
        ({"master": None}, "master: expected True or False"),
        ({"nonfinite": "ignore"}, "nonfinite: expected 'propagate' or 'raise' or 'skip'"),
        ({"sparse": True}, "sparse: expected None or 'lazy' or 'dense'"),
        ({"complex_form": "real"}, "complex_form: expected 'parts' or 'modulus'"),
        ({"accumulate": 0}, "accumulate: expected at least 1"),
        ({"accumulate": 2.0}, "accumulate: expected an int"),
        ({"accumulate": True}, "accumulate: expected an int"),
        ({"max_skips": 0, "nonfinite": "skip"}, "max_skips: expected at least 1"),
        ({"max_skips": 2}, "max_skips: needs nonfinite='skip'"),
        ({"max_skips": 2, "nonfinite": "raise"}, "max_skips: needs nonfinite='skip'"),
        ({"clip_norm": 1, "clip_array_norm": 1}, "clip_array_norm: clips each array by itself"),
        ({"ema_warmup": True}, "ema_warmup: needs an average"),
        ({"ema_debias": True}, "ema_debias: needs an average"),
        ({"ema": 0.9, "ema_debias": True, "ema_warmup": True}, "ema_debias: ema_warmup already"),
        ({"ema": lambda taken: 0.9, "ema_debias": True}, "ema_debias: divides by"),
        ({"decay_times_lr": False}, "decay_times_lr: L2 decay is part of the gradient"),
        ({"sparse": "lazy", "accumulate": 2}, "accumulate: with sparse='lazy'"),
        ({"sparse": "lazy", "ema": 0.9}, "ema: sparse='lazy'"),
        ({"sparse": "lazy", "bounds": (0, 1), "clip_norm": 1.0}, "bounds: with sparse='lazy'"),
        ({"like": "jax"}, "like: expected one of"),
        ({"state_dtype": "int8"}, "state_dtype: expected float64"),
        ({"state_dtype": ">f4"}, "state_dtype: expected float64"),
        ({"master": True}, "master: is for float16 and bfloat16 parameters"),
        ({"beta2": 1.0}, "beta2: 1.0 is only possible with eps_form='hat'"),
        ({"groups": ["*"]}, "groups: expected a mapping"),
        ({"lr": math.nan}, "lr: expected a number in [0, inf)"),
        ({"lr": "0.1"}, "lr: expected a number"),
        ({"lr": {"a": 0.1}}, "lr: expected a number or an array for params"),
        ({"lr": np.ones(3)}, "lr: expected a number or an array that broadcasts"),
        ({"lr": np.array([0.1, -0.1])}, "lr: expected finite numbers >= 0"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_be_honoured_is_refused(options, says):
    p = np.array([5.0, -5.0])
    with pytest.raises((TypeError, ValueError)) as caught:
        na.Adam(p, **options)
    assert str(caught.value).startswith(says), caught.value
    assert p.tolist() == [5.0, -5.0]


def test_a_refused_optimiser_has_not_moved_parameters_into_their_bounds():
    p, q = np.array([5.0, -5.0]), np.array([9.0])
    q.setflags(write=False)
    for options, error in [({"lr": -1.0}, "^lr"), ({}, "read-only")]:
        with pytest.raises(ValueError, match=error):
            na.Adam([p, q], bounds=(0.0, 1.0), **options)
        assert p.tolist() == [5.0, -5.0]


@pytest.mark.parametrize("option", ["ema", "master", "accumulate", "sparse"])
def test_out_is_refused_where_it_would_hold_something_else(option):
    value = {"ema": 0.9, "master": True, "accumulate": 2, "sparse": "lazy"}[option]
    p, d = np.ones(2, np.float16 if option == "master" else float), np.full(2, 7.0)
    opt = na.Adam(p, **{option: value})
    with pytest.raises(ValueError, match=f"^out: {option}"):
        opt.step(p.copy(), out=d.astype(p.dtype))
    assert opt.t == 0
    if option in ("ema", "master"):
        with pytest.raises(ValueError, match=f"^params: {option} follows"):
            opt.step(p.copy(), params=p.copy())


# --- changed afterwards --------------------------------------------------------------------------


def test_hyperparameters_may_change_at_any_time():
    """The same numbers as with a callable that changes at that step."""
    options = {"weight_decay": 0.1, "clip_norm": 1.0, "clip_value": None, "accumulate": 2}
    options |= {"ema": 0.5}
    later = {"weight_decay": 0.4, "clip_norm": 0.3, "clip_value": 0.2, "loss_scale": 3.0}
    later |= {"beta1": 0.5, "eps": 0.1, "ema": 0.9}
    calls = np.random.default_rng(0).standard_normal((6, 5))
    opt = na.Adam(np.ones(5), **neutral(np.ones(5), **options))
    ref = Steps([np.ones(5)], lr=0.1, **options)
    for k, g in enumerate(calls):
        if k == 3:
            for name, value in later.items():
                setattr(opt, name, value)
                assert getattr(opt, name) == value
            ref._options.update(later)
            ref.product1 = 0.5**3  # no product: beta1 is what it is now
        for _ in range(2):
            opt.step(g)
            ref.step([g])
    assert_follows(opt, ref)
    opt.clip_value = None
    assert opt.clip_value is None
    opt.loss_scale = told = Told(1.0)
    opt.step(calls[0])
    assert told.asked[-1] == 6
    opt.loss_scale = 2.0
    opt.step(calls[0])
    assert told.asked[-1] == 6


def test_lr_may_change_at_any_time():
    p, q = np.ones(3), np.ones(3)
    opt, twin = na.Adam(p, lr=0.1), na.Adam(q, lr=lambda taken: 0.1 * (taken + 1))
    for k in range(4):
        opt.lr = 0.1 * (k + 1)
        opt.step(np.full(3, k + 1.0))
        twin.step(np.full(3, k + 1.0))
    assert_same_bits(p, q)
    by_element = na.Adam(p, **neutral(p))
    for value in (0.1, np.ones(3)):
        with pytest.raises(AttributeError, match=r"^lr: arrays of step sizes are fixed"):
            by_element.lr = value
    with pytest.raises(ValueError, match=r"^lr: this optimiser has a step size for each"):
        by_element.step(np.ones(3), lr=0.1)


def test_changes_that_need_another_step_are_refused():
    opt = na.Adam(np.ones(2))
    for name, value in {
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "clip_array_norm": 1.0,
        "ema": 0.9,
        "beta1": lambda taken: 0.9,
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: .* needs another step"):
            setattr(opt, name, value)
    for name, value in {"weight_decay": -1.0, "loss_scale": 0, "eps": math.nan}.items():
        with pytest.raises(ValueError, match=f"^{name}: expected a number"):
            setattr(opt, name, value)
    for name in ("maximize", "accumulate", "bounds", "groups", "nonfinite", "decoupled", "like"):
        with pytest.raises(AttributeError, match=f"^{name}: cannot be changed"):
            setattr(opt, name, getattr(opt, name))
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


def beta_of(taken):
    return 0.9 - 0.05 * taken


RESUMED = {
    "all together": SINK,
    "running products": {"beta1": beta_of, "beta2": 0.99},
    "debiased": {**SINK, "ema_debias": True},
    "changed afterwards": {**SINK, "then": {"clip_norm": 0.1, "ema": 0.5, "weight_decay": 0.5}},
}


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state"])
@pytest.mark.parametrize("name", RESUMED)
def test_resumed_with_the_same_bits(name, way):
    """In the middle of a mean, with a skipped step behind."""
    options = copy.deepcopy(RESUMED[name])
    then = options.pop("then", {})
    opt = na.Adam(tree_of(0), **options)
    for key, value in then.items():
        setattr(opt, key, value)
    bad = tree_map(lambda a: np.full_like(a, np.nan), tree_of(1))
    for k in range(5):
        opt.step(bad if k == 3 and name != "running products" else tree_of(k))
    if way == "pickle":
        twin = pickle.loads(pickle.dumps(opt))
    elif way == "deepcopy":
        twin = copy.deepcopy(opt)
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
            one.step(tree_of(k))
    assert digest(twin) == digest(opt)
    assert_same_containers(twin.params, opt.params)
    assert not np.shares_memory(twin.params["strided"], opt.params["strided"])


def test_state_of_other_options_is_refused():
    opt = na.Adam(np.ones(2), **neutral(np.ones(2), nonfinite="skip"))
    opt.step(np.ones(2))
    names = ["t", "calls", "skipped", "skipped_in_a_row", "m", "v", "accumulated", "average"]
    assert list(opt.state) == names
    before = digest(opt)
    for wrong in ({}, {"accumulate": 2}):
        with pytest.raises(ValueError, match=r"^state: expected the entries"):
            opt.state = dict(na.Adam(np.ones(2), **wrong).state)
    for name in ("calls", "skipped"):
        for value in (-1, 0.5, "x", 2**53):
            with pytest.raises(ValueError, match="expected a whole number"):
                opt.state[name] = value
    with pytest.raises(ValueError, match="read-only"):
        opt.state["calls"][...] = 0
    assert digest(opt) == before


# --- the bare face -------------------------------------------------------------------------------

BARE_OPTIONS = {
    "l2": {"weight_decay": 0.3, "maximize": True},
    "decoupled": {"weight_decay": 0.3, "decoupled": True, "decay_times_lr": False},
    "clips": {"clip_norm": 1.0, "clip_value": 0.5, "loss_scale": 3.0},
    "bounds": {"bounds": (-0.5, 0.5)},
    "tf1": {"like": "tf1"},
    "sklearn": {"like": "sklearn", "eps": 1e-3},
}


@pytest.mark.parametrize("name", BARE_OPTIONS)
def test_bare_face_has_the_bits_of_the_class(name):
    options = BARE_OPTIONS[name]
    start, *calls = np.random.default_rng(0).standard_normal((7, 9))
    start = np.clip(start, -0.5, 0.5)
    opt = na.Adam(start.copy(), lr=0.1, **options)
    p, m, v = start.copy(), np.zeros(9), np.zeros(9)
    for t, g in enumerate(calls, 1):
        opt.step(g)
        na.adam_update(p, g, m, v, t, lr=0.1, **options)
    for one, other in ((p, opt.params), (m, opt.state["m"]), (v, opt.state["v"])):
        assert_same_bits(one, other)
    out = np.empty(9)
    na.adam_update(p, calls[0], m, v, 7, lr=0.1, out=out, **options)
    kept = p.copy()
    opt.step(calls[0])
    np.testing.assert_allclose(p + out, opt.params, rtol=1e-14)
    assert_same_bits(p, kept)


def test_bare_face_takes_steps_in_any_order():
    """The running products are remembered from call to call, and formed anew where t jumps."""
    calls = np.random.default_rng(1).standard_normal((6, 3))
    runs = {}
    for seed in (0, 1):
        opt = na.Adam(np.full(3, float(seed)), lr=0.1, like="tf1")
        runs[seed] = opt, [np.full(3, float(seed)), np.zeros(3), np.zeros(3)]
    for t, g in enumerate(calls, 1):
        for opt, (p, m, v) in runs.values():
            opt.step(g)
            na.adam_update(p, g, m, v, t, lr=0.1, like="tf1")
            assert_same_bits(p, opt.params)


def test_bare_face_takes_presets_with_a_complex_form():
    """optax takes complex numbers whole; for real ones that says nothing."""
    p, m, v = np.ones(2), np.zeros(2), np.zeros(2)
    na.adam_update(p, np.ones(2), m, v, 1, lr=0.1, like="optax")
    np.testing.assert_allclose(p, 0.9, rtol=1e-7)
    p, m, v = np.ones(2, complex), np.zeros(2, complex), np.zeros(2)
    na.adam_update(p, np.full(2, 3 + 4j), m, v, 1, lr=0.1, like="optax")
    np.testing.assert_allclose(p, 1 - 0.1 * (0.6 + 0.8j), rtol=1e-7)
    np.testing.assert_allclose(v, 0.025, rtol=1e-12)

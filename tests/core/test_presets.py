"""like=...: defaults and arithmetic of other libraries, and the settings of public codes."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from numadam import rules
from numadam._core import options as op
from numadam._core.synonyms import LIKE
from numadam._optimizer.base import OptimizerBase
from numadam._optimizer.functional import UpdateFunction
from tests import extras
from tests.bits import assert_same_bits
from tests.reference import emulated
from tests.variants import FUNCTIONS, compile_nothing

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "other-libraries.md"
RULES = rules.classes()


# --- defaults ------------------------------------------------------------------------------------


#: from the documentation of the libraries (optax has no default of lr): what a class starts with
DOCUMENTED = {
    "torch": {
        "Adam": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0, "decoupled": False},
        "AdamW": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0.01, "decoupled": True},
        "NAdam": {"lr": 2e-3, "eps": 1e-8, "momentum_decay": 4e-3, "decoupled": False},
        "RAdam": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0, "decoupled": False},
        "AdaMax": {"lr": 2e-3, "eps": 1e-8, "eps_form": "norm", "decoupled": False},
        "RMSprop": {"lr": 1e-2, "beta2": 0.99, "eps": 1e-8, "momentum": 0, "centered": False},
        "SGD": {"lr": 1e-3, "momentum": 0, "dampening": 0, "nesterov": False},
        "Adagrad": {"lr": 1e-2, "eps": 1e-10, "eps_root": 0, "decoupled": False},
    },
    "keras": {
        "Adam": {"lr": 1e-3, "eps": 1e-7, "decoupled": True, "eps_form": "hat"},
        "AdamW": {"lr": 1e-3, "eps": 1e-7, "weight_decay": 0.004},
        "NAdam": {"lr": 1e-3, "eps": 1e-7, "decoupled": True, "momentum_decay": 1},
        "AdaMax": {"lr": 1e-3, "eps": 1e-7, "eps_form": "denominator", "decoupled": True},
        "Lion": {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99},
        "RMSprop": {"lr": 1e-3, "beta2": 0.9, "eps": 0, "eps_root": 1e-7, "decoupled": True},
        "SGD": {"lr": 1e-2, "momentum": 0, "nesterov": False, "decoupled": True},
        "Adagrad": {"lr": 1e-3, "eps": 0, "eps_root": 1e-7, "decoupled": True},
    },
    "tf1": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat"}},
    "optax": {
        "Adam": {"eps": 1e-8, "eps_root": 0},
        "AdamW": {"eps": 1e-8, "weight_decay": 1e-4, "decoupled": True},
        "NAdam": {"eps": 1e-8, "momentum_decay": math.inf},
        "RAdam": {"eps": 1e-8, "eps_form": "paper"},
        "AdaMax": {"eps": 1e-8, "eps_form": "norm"},
        "AdaBelief": {"eps": 1e-16, "eps_root": 1e-16},
        "Lion": {"beta1": 0.9, "beta2": 0.99, "weight_decay": 1e-3},
        "RMSprop": {"beta2": 0.9, "eps": 0, "eps_root": 1e-8, "momentum": 0},
        "SGD": {"momentum": 0, "nesterov": False},
        "Adagrad": {"eps": 0, "eps_root": 1e-7},
    },
    "sklearn": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "hat"}},
    "numpy": {"Adam": {"lr": 1e-3, "eps": 1e-8, "eps_form": "paper"}},
}


PAIRS = [(like, name) for like in LIKE for name in DOCUMENTED[like]]


class Found(Exception):
    """The options of a function, which ends there."""


@pytest.fixture(params=["class", "function"])
def options_of(request, monkeypatch):
    """``options_of(name, ...)``: the options that a class or a function comes to; none is made."""
    seen = []

    def settings_of(self, dtype, arrays, absent, t, given):
        seen.append(self._sort(given))
        raise Found

    # what it hands on ends with lr, shared, own
    monkeypatch.setattr(
        OptimizerBase, "_setup", lambda *args: seen.append((args[2], args[-1], args[-2]))
    )
    monkeypatch.setattr(UpdateFunction, "_settings_of", settings_of)

    def find(name, *lr, **options):
        rule = RULES[name]
        if request.param == "class":
            rule(np.ones(2), *lr, **options)
            rate, own, shared = seen.pop()
        else:
            function, one = FUNCTIONS[name], np.ones((1, 2, 1, 1))  # no other test has these
            parameters = inspect.signature(function).parameters
            needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind < 2]
            if "centered" not in parameters:  # RMSprop: that is so where there is an array
                options.pop("centered", None)
            with pytest.raises(Found):
                function(*(1 if key == "t" else one for key in needed), **options)
            usual, own, shared = seen.pop()
            rate = options.get("lr", lr[0] if lr else usual)  # here it is by name only
        return op.check(rule.rule, name, shared, own) | {"lr": rate}

    return find


@pytest.mark.parametrize(("like", "name"), PAIRS)
def test_defaults_are_those_of_the_library(like, name, options_of):
    options = options_of(name, like=like)
    expected = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, **DOCUMENTED[like][name]}
    expected["complex_form"] = "modulus" if like == "optax" else "parts"
    for option in expected.keys() & options.keys():
        assert options[option] == expected[option], option
    assert expected.keys() - options.keys() <= {"beta1", "beta2"}
    assert options["like"] == like


@pytest.mark.parametrize(("like", "name"), PAIRS)
def test_keyword_goes_before_the_preset(like, name, options_of):
    given = {**DOCUMENTED[like][name], "lr": 0.123}
    given |= dict.fromkeys(given.keys() & {"eps", "weight_decay", "momentum_decay"}, 0.25)
    options = options_of(name, like=like, **given)
    assert {option: options[option] for option in given} == given
    usual = inspect.signature(RULES[name]).parameters["lr"].default
    assert options_of(name, like=like, lr=usual)["lr"] == usual
    assert options_of(name, usual, like=like)["lr"] == usual


@pytest.mark.rule
@pytest.mark.parametrize("name", RULES)
def test_what_no_library_has_is_refused(name):
    for like in LIKE:
        if name not in DOCUMENTED[like]:
            with pytest.raises(ValueError, match=f"^like: '{like}' has no {name}; "):
                RULES[name](np.ones(2), like=like)
    for like in ("jax", "Torch", "", 1):
        with pytest.raises(ValueError, match=r"^like: expected one of 'torch', 'optax', "):
            RULES[name](np.ones(2), like=like)


@pytest.mark.parametrize(
    ("like", "write", "own"),
    [
        ("quimb", "like='numpy'", {"like": "numpy"}),
        ("qiskit", "like='sklearn', beta2=0.99", {"like": "sklearn", "beta2": 0.99}),
        ("keras-jax", "like='keras'", {"like": "keras"}),
    ],
)
def test_a_library_with_the_numbers_of_a_preset_is_led_there(like, write, own):
    for make in (na.Adam, lambda p, like: na.adam_update(p, p, p, p, 1, like=like)):
        with pytest.raises(ValueError) as caught:
            make(np.ones(2), like=like)
        assert str(caught.value) == (
            f"like: {like!r} has no preset of its own; write {write}, which is the same but for "
            "rounding."
        )
    rng = np.random.default_rng(5)
    x, *grads = rng.standard_normal((61, 40))
    options = {"eps": 1e-7} if like == "keras-jax" else {"b2": own.get("beta2", 0.999)}
    opt = na.Adam(x.copy(), **own)
    for g, (p, *_) in zip(grads, emulated(like, x, grads, **options), strict=True):
        opt.step(g)
        np.testing.assert_allclose(opt.params, p, rtol=1e-15, atol=1e-15)


# --- bit for bit ---------------------------------------------------------------------------------


def gradients(dtype, n=64):
    """60 steps of every size: zeros, both signs of 0, denormal gradients, moments and squares."""
    rng = np.random.default_rng(3)
    info = np.finfo(dtype)
    low, high = math.log10(info.smallest_normal), math.log10(info.max) / 2 - 1
    grads = rng.standard_normal((60, n)) * 10.0 ** np.linspace(low, high, n)
    grads[:, 0], grads[:, 1] = 0.0, -0.0
    grads[1:, 2:8] = 0.0  # one gradient, then none for ever
    grads[:, 8] = info.smallest_subnormal
    grads[:, 10:16] = rng.standard_normal((60, 6)) * float(info.smallest_normal)
    grads[:, 16:22] = rng.standard_normal((60, 6)) * float(info.smallest_normal) ** 0.5
    grads[:, 9] = np.where(rng.random(60) < 0.1, 1.0, 0.0)
    grads[7] = 0.0
    return grads.astype(dtype)


EXACT = [like for like, one in LIKE.items() if one.bit_exact]
#: AMSGrad with one library; without it below, in the table of codes
REAL = dict(zip(EXACT, itertools.cycle(("float32", "float64")), strict=False))
# Keras rounds its scalars where the arrays are float32
REAL["keras"] = "float64"
OTHER = {"float32": "float64", "float64": "float32"}
FORMS = [("numpy", REAL["numpy"], True)]
FORMS += [extras.sweep(like, dtype, True) for like, dtype in REAL.items() if like != "numpy"]
FORMS += [
    extras.sweep(like, OTHER[dtype], False) for like, dtype in REAL.items() if like != "keras"
]
FORMS += [extras.sweep(like, dtype, False) for like, dtype in REAL.items()]
FORMS += [extras.sweep(like, OTHER[dtype], True) for like, dtype in REAL.items() if like != "keras"]


@pytest.mark.parametrize(("like", "dtype", "amsgrad"), FORMS)
def test_bits_of_the_library(like, dtype, amsgrad):
    grads = gradients(dtype)
    start = np.random.default_rng(0).standard_normal(64).astype(dtype)
    given = {"lr": 0.01, "beta2": 0.999, "like": like}
    opt = na.Adam(start.copy(), amsgrad=amsgrad, **given)
    p, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    vmax = {"vmax": np.zeros_like(start)} if amsgrad else {}
    eps = 1e-7 if like == "keras" else 1e-8
    tiny, denormal = np.finfo(dtype).smallest_normal, 0
    for t, expected in enumerate(emulated(like, start, grads, amsgrad, 0.01, eps=eps), 1):
        opt.step(grads[t - 1])
        na.adam_update(p, grads[t - 1], m, v, t, **given, **vmax)
        got = [opt.params, opt.state["m"], opt.state["v"]]
        for one, bare, other in zip(got, (p, m, v), expected, strict=False):
            assert_same_bits(one, other, f"step {t}")
            assert_same_bits(bare, other, f"step {t}")
        if amsgrad:
            assert_same_bits(opt.state["vmax"], expected[3])
        denormal += int(((expected[1] != 0) & (np.abs(expected[1]) < tiny)).sum())
    assert denormal > 60  # and none of them was flushed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_scikit_learn_itself(dtype):
    """Its moments too; in float32 its step size is a NumPy scalar, so its last line is float64."""
    from sklearn.neural_network import _stochastic_optimizers as module

    grads = gradients(dtype)
    theirs, ours = [np.ones(64, dtype)], np.ones(64, dtype)
    sklearn = module.AdamOptimizer(theirs, 0.01)
    opt = na.Adam(ours, lr=0.01, like="sklearn")
    for g in grads:
        sklearn.update_params(theirs, [g])
        opt.step(g)
    if dtype == "float64":
        assert_same_bits(ours, theirs[0])
    assert_same_bits(opt.state["m"], sklearn.ms[0])
    assert_same_bits(opt.state["v"], sklearn.vs[0])
    assert np.abs(ours - theirs[0]).max() <= 2 * np.finfo(dtype).eps * np.abs(ours).max()


# --- torch and optax: to rounding ----------------------------------------------------------------


def test_the_same_rule_under_another_class_is_named(monkeypatch):
    compile_nothing(monkeypatch)
    with pytest.raises(ValueError, match=r"has no AdamW; write na.Adam\(..., decoupled=True"):
        na.AdamW(np.ones(2), like="numpy")
    na.Adam(np.ones(2), like="numpy", decoupled=True, weight_decay=0.01)


# --- the table of public codes in the docs: each setting against the lines of that code -----------


EPS = np.finfo(float).eps


def moments(g, m, v, b1=0.9, b2=0.999):
    return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2


def powers(t, b1=0.9, b2=0.999):
    """The powers of the betas as products that go on from step to step."""
    b1t = b2t = 1
    for _ in range(t):
        b1t *= b1
        b2t *= b2
    return b1t, b2t


def pints(x, g, m, v, t):
    b1t, b2t = powers(t)
    m, v = moments(g, m, v)
    return x - 0.1 * (m / (1 - b1t)) / (np.sqrt(v / (1 - b2t)) + 1e-8), m, v


def pybop(x, g, m, v, t):
    b1t, b2t = powers(t)
    m, v = moments(g, m, v)
    return x - 0.1 * ((m / (1 - b1t)) / (np.sqrt(v / (1 - b2t)) + EPS) + 0.01 * x), m, v


def adam(like, sign=1.0, **options):
    """The lines that several codes share, in one of their orders (`tests.reference`)."""
    return lambda x, grads: emulated(like, x, [sign * g for g in grads], **options)


def steps(step):
    """A code's own lines: one step after another."""

    def run(x, grads):
        m, v = np.zeros_like(x), np.zeros_like(x)
        for t, g in enumerate(grads, 1):
            x, m, v = step(x, g, m, v, t)
            yield x, m, v

    return run


def odl(x, g, m, v, t):
    m, v = moments(g, m, v)
    step = 1e-3 * math.sqrt(1 - 0.999) / (1 - 0.9)
    return x - step * (m / (np.sqrt(v) + 1e-8)), m, v


def pacmap(x, g, m, v, t):
    """Its arrays are float32 and its numbers float64, as Numba compiles it."""
    rate = 1.0 * math.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
    m = (m + (1 - 0.9) * (g - m).astype(float)).astype("f4")
    v = (v + (1 - 0.999) * (g * g - v).astype(float)).astype("f4")
    return (x - rate * m / (np.sqrt(v).astype(float) + 1e-7)).astype("f4"), m, v


def pyvbmc_lr(t):
    return 0.001 + (0.1 - 0.001) * np.exp(-t / 200)


#: The code, by its name in the table; its lines; and how far apart p may be, in units of eps.
CODES = {
    "autograd": (adam("numpy"), 0),
    "jenn": (adam("numpy", lr=0.05, b2=0.99, eps=0.0, root=EPS), 0),
    "proxmin": (adam("numpy", lr=0.1), 0),
    "pyvbmc": (adam("numpy", lr=pyvbmc_lr, eps=np.sqrt(np.spacing(1))), 0),
    "pints": (steps(pints), 0),
    "quimb": (adam("quimb"), 1),
    "ceviche": (adam("quimb", lr=0.01), 2),
    "legume": (adam("quimb", lr=0.01), 2),
    "dagma": (adam("quimb", lr=3e-4, b1=0.99), 1),
    "ODL": (steps(odl), 1),
    "scikit-learn": (adam("sklearn"), 0),
    "pyribs": (adam("sklearn", sign=-1.0), 0),
    "PennyLane": (adam("sklearn", lr=0.01, b2=0.99), 0),
    "qiskit-algorithms": (adam("qiskit", b2=0.99), 1),
    "pybop": (steps(pybop), 4),
    "PaCMAP": (steps(pacmap), 20),
}


def table():
    """Rows of the table of public codes: name to (setting, how close)."""
    text = PAGE.read_text(encoding="utf-8").split("## Public codes")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\w-]+) [\d.]+, `[\w.]+` \| `(.+?)` \| (.+?) \|$", text, re.MULTILINE)
    return {name: (setting, close) for name, setting, close in rows}


def test_the_table_has_these_codes():
    assert list(table()) == list(CODES)
    assert len(re.findall(r"\| `na\.", PAGE.read_text(encoding="utf-8"))) == len(CODES)


@pytest.mark.parametrize("name", CODES)
def test_setting_repeats_the_lines_of_the_code(name):
    setting, close = table()[name]
    lines, units = CODES[name]
    assert close.startswith("bit for bit" if units == 0 else f"{units} unit")
    dtype = "f4" if name == "PaCMAP" else "f8"
    rng = np.random.default_rng(5)
    grads = (rng.standard_normal((300, 40)) * 10.0 ** rng.uniform(-6, 3, 40)).astype(dtype)
    grads[5], grads[:, 3] = 0.0, np.where(rng.random(300) < 0.05, grads[:, 3], 0.0)
    grads[0, 3] = 1.0
    x = rng.standard_normal(40).astype(dtype)
    expected = lines(x.copy(), grads)
    opt = eval(setting, {"na": na, "np": np, "math": math, "x": x})
    largest = np.abs(x).astype(float)
    for t, (g, (p, m, v, *_)) in enumerate(zip(grads, expected, strict=True), 1):
        opt.step(g)
        largest = np.maximum(largest, np.abs(p))
        apart = np.abs(x.astype(float) - p)
        assert np.all(apart <= units * np.finfo(dtype).eps * largest), t
        if units == 0:
            np.testing.assert_array_equal(opt.state["m"], m)
            np.testing.assert_array_equal(opt.state["v"], v)

"""Every rule and option: shared by the tests of PTX and of a GPU."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import numadam as na
from numadam.rules import classes
from tests import references as ref

#: By class what its tests run; a class that is not here runs with its defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "Adam": [
        {},
        {"eps_form": "hat"},
        {"amsgrad": "v"},
        {"amsgrad": "vhat", "eps_root": 1e-4},
        {"nesterov": True, "weight_decay": 0.1},
    ],
    "AdamW": [{"weight_decay": 0.1}],
    "RAdam": [{"beta2": 0.9}],  # with 0.999 the first steps are SGD's
    "RMSprop": [{}, {"centered": True, "momentum": 0.9}],
    "SGD": [{}, {"momentum": 0.9, "nesterov": True, "dampening": 0.0}],
}


@dataclass(frozen=True)
class Case:
    name: str  # of the optimiser's class
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self):
        options = "-".join(f"{key}={value}" for key, value in self.options.items())
        return "-".join(filter(None, [self.name, options]))

    def make(self, params, lr=0.05, **more):
        return getattr(na, self.name)(params, lr=lr, **self.options, **more)

    def reference(self, p, grads):
        """(p, state by name) after all steps, in float64."""
        decoupled = {"decoupled": True} if self.name == "AdamW" else {}
        return ref.steps(self.name.lower())(p, grads, lr=0.05, **decoupled, **self.options)


CASES = [Case(name, options) for name in classes() for options in VARIANTS.get(name, [{}])]

#: Each rule with the most arrays that it takes.
RULES = [Case("Adam"), *{case.name: case for case in CASES}.values()]

#: Bound between GPU and float64 reference after some steps: a few roundings a step.
RTOL = {"float32": 2e-5, "float64": 1e-13}


def gradients(shape, dtype, steps, seed=7):
    """Gradients of many sizes, with zeros among them; the later ones are smaller (for AMSGrad)."""
    random = np.random.default_rng(seed)
    size = 10.0 ** random.uniform(-3, 2, shape)
    keep = random.random(shape) > 0.1
    draws = (random.standard_normal(shape) * size * keep / (t + 1) for t in range(steps))
    return [np.asarray(draw, dtype) for draw in draws]


def check(case, dtype, asarray, asnumpy, shape=(3, 4), steps=4, **options):
    """Steps on the device against the reference; options are those that change no number."""
    start = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    grads = gradients(shape, dtype, steps)
    p = asarray(start)
    opt = case.make(p, **options)
    for t, g in enumerate(grads, 1):
        opt.step(asarray(g))
        assert opt.t == t
    wanted, state = case.reference(start, grads)
    rtol = RTOL[np.dtype(dtype).name]
    assert p.dtype == dtype
    np.testing.assert_allclose(asnumpy(p), wanted, rtol=rtol, atol=rtol)
    largest = np.abs(np.asarray(grads, np.float64)).max(axis=0)
    for name, value in state.items():
        # where gradients of both signs cancel, their roundings stay
        bound = rtol * (np.abs(value) + (1e-2 * largest if np.any(value < 0) else 1e-3))
        off = np.abs(asnumpy(opt.state[name]) - value)
        assert np.all(off <= bound), (name, off.max())


# --- options: the CPU back end, which has references of its own, says what is right ---------------


@dataclass(frozen=True)
class Option:
    """Options together, and the dtype of the parameters ``{"w": (3, 4), "b": (5,)}``."""

    dtype: str
    options: dict[str, Any]
    name: str = "Adam"
    #: steps; "nan" and "inf" are bad gradients
    script: tuple[str, ...] = ("", "", "")


ROW = np.linspace(-0.5, 0.5, 4)
BY_ELEMENT = {"lr": {"w": 0.1 * ROW**2, "b": 0.1}}
#: Neighbours share a plan, and so the loop that the CPU back end has to compile: 3 s each.
_L2 = {"weight_decay": 0.1, "lr": 0.05, "clip_norm": 1.0}
_DECOUPLED = {"weight_decay": 0.1, "ema": 0.999, "clip_array_norm": 0.5}
_AVERAGED = {"clip_norm": 0.1, "bounds": (-0.5, 0.25), "ema": 0.9}

OPTIONS = {
    "frozen": Option("float32", {"groups": {"b": {"frozen": True}}}),
    "lr by array": Option("float32", {"lr": {"w": 0.1, "b": 0.01}}),
    "schedule": Option("float32", {"lr": lambda t: 0.1 / (t + 1), "eps": lambda t: 0.1**t}),
    "l2": Option("float32", _L2 | {"maximize": True, "clip_value": 0.5}),
    "groups": Option(
        "float32",
        _L2 | {"groups": {"b": {"lr": 0.2, "weight_decay": 0.0, "clip_value": 0.1, "beta1": 0.5}}},
    ),
    "like torch": Option("float32", _L2 | {"like": "torch"}),
    "like keras": Option("float64", _DECOUPLED | {"like": "keras"}, "AdamW"),
    "like numpy": Option("float64", {"like": "numpy"}),
    "like tf1": Option("float32", {"like": "tf1"}),
    "decoupled": Option("float64", _DECOUPLED | {"ema_warmup": True}, "AdamW"),
    "decay without lr": Option(
        "float64", _DECOUPLED | {"decay_times_lr": False, "ema_debias": True}, "AdamW"
    ),
    "norms out of range": Option("float64", _DECOUPLED, "AdamW", ("", "huge", "")),
    "raise": Option("float64", _AVERAGED | {"nonfinite": "raise"}, "SGD", ("", "nan", "")),
    "skip": Option("float64", _AVERAGED | {"nonfinite": "skip"}, "SGD", ("", "inf", "", "nan", "")),
    "bounds of each": Option(
        "float64", _AVERAGED | {"bounds": {"w": (0.1, None), "b": None}}, "SGD"
    ),
    "by element": Option(
        "float32",
        {
            "bounds": {"w": (ROW - 0.1, ROW + 0.1), "b": None},
            "clip_norm": np.inf,
            "weight_decay": 0.1,
            **BY_ELEMENT,
        },
        "AdamW",
    ),
    "complex parts": Option("complex64", {"clip_norm": 1.0, "ema": 0.9, **BY_ELEMENT}),
    "complex modulus": Option(
        "complex128",
        {
            "complex_form": "modulus",
            "amsgrad": True,
            "clip_norm": 1.0,
            **BY_ELEMENT,
        },
        "Adam",
    ),
}


def plan_of(option, dtype="f4"):
    """The plan of a `Case`, or of an `Option` of its own dtype."""
    if isinstance(option, Case):
        return option.make(np.zeros(3, dtype))._settings.plan
    params = {"w": np.zeros((3, 4), option.dtype), "b": np.zeros(5, option.dtype)}
    return getattr(na, option.name)(params, **option.options)._settings.plan


def draw(shape, dtype, random):
    values = random.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * random.standard_normal(shape)
    return values.astype(dtype)


def moved(value, asarray):
    """Options with their arrays on the device."""
    if isinstance(value, np.ndarray):
        return asarray(value)
    if isinstance(value, dict):
        return {key: moved(entry, asarray) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(entry, asarray) for entry in value)
    return value


def run(option, asarray, asnumpy):
    """All that is left of the script: a dictionary of NumPy arrays and numbers."""
    random = np.random.default_rng(11)
    shapes = {"w": (3, 4), "b": (5,)}
    params = {key: asarray(draw(shape, option.dtype, random)) for key, shape in shapes.items()}
    opt = getattr(na, option.name)(params, **moved(option.options, asarray))
    left: dict[str, Any] = {"norms": []}
    for word in option.script:
        grads = {key: draw(shape, option.dtype, random) for key, shape in shapes.items()}
        if word in ("nan", "inf"):
            grads["w"][1, 2] = word
        if word == "huge":
            grads["w"] *= 1e200
        try:
            opt.step({key: asarray(g) for key, g in grads.items()})
        except FloatingPointError as error:
            left["error"] = str(error)
        if opt._settings.plan.norm:
            left["norms"].append(opt.grad_norm)
    for key, p in params.items():
        left[key] = asnumpy(p)
    for name, entry in opt.state.items():
        if isinstance(entry, dict):
            for key, view in entry.items():
                left[name, key] = None if view is None else asnumpy(view)
        else:
            left[name] = copy.deepcopy(np.asarray(entry))
    if option.options.get("ema"):
        left |= {("averaged", key): asnumpy(a) for key, a in opt.averaged.items()}
    left["skipped"] = opt.skipped
    return left


#: Bound between GPU and CPU, which differ in the last bit of a product and a sum.
AGREE = {"complex64": 1e-4, "float32": 1e-4}


def check_option(option, asarray, asnumpy):
    """What compiled code on the device leaves of the script, against the CPU back end."""
    of_cpu, of_gpu = run(option, np.array, np.asarray), run(option, asarray, asnumpy)
    assert list(of_gpu) == list(of_cpu)
    rtol = AGREE.get(option.dtype, 1e-12)
    for key, wanted in of_cpu.items():
        if wanted is None or isinstance(wanted, str):
            assert of_gpu[key] == wanted
            continue
        got = np.asarray(of_gpu[key])
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol, err_msg=str(key))

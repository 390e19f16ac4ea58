"""Rules and options, shared by the tests of kernels and of a GPU.

The CPU back end, which has references of its own and runs the same text, says what is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import numadam as na
from numadam.rules import classes


@dataclass(frozen=True)
class Case:
    """A class, its options, and the dtype of the parameters ``{"w": (3, 4), "b": (5,)}``."""

    name: str = "Adam"
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    #: steps; "nan", "inf" and "huge" are bad gradients
    script: tuple[str, ...] = ("", "", "")

    def __str__(self):
        options = "-".join(f"{key}={value}" for key, value in self.options.items())
        return "-".join(filter(None, [self.name, options, self.dtype]))

    def of(self, dtype):
        return replace(self, dtype=dtype)

    def make(self, params, options=None):
        return getattr(na, self.name)(params, **(self.options if options is None else options))


#: By class what its tests run; a class that is not here runs with its defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "Adam": [
        {},
        {"eps_form": "hat"},
        {"amsgrad": "v"},
        {"amsgrad": "vhat", "eps_root": 1e-4},
        {"nesterov": True, "weight_decay": 0.1},
    ],
    "RAdam": [{"beta2": 0.9}],  # with 0.999 the first steps are SGD's
    "RMSprop": [{}, {"centered": True, "momentum": 0.9}],
    "SGD": [{}, {"momentum": 0.9, "nesterov": True, "dampening": 0.0}],
}
CASES = [Case(name, options) for name in classes() for options in VARIANTS.get(name, [{}])]
#: Each rule with the most arrays that it takes.
RULES = [Case(), *{case.name: case for case in CASES}.values()]

ROW = np.linspace(-0.5, 0.5, 4)
BY_ELEMENT = {"lr": {"w": 0.1 * ROW**2, "b": 0.1}}
#: Neighbours share a plan, and so the loop that the CPU back end has to compile: 3 s each.
_L2 = {"weight_decay": 0.1, "lr": 0.05, "clip_norm": 1.0}
_DECOUPLED = {"weight_decay": 0.1, "ema": 0.999, "clip_array_norm": 0.5}
_AVERAGED = {"clip_norm": 0.1, "bounds": (-0.5, 0.25), "ema": 0.9}
_OF_B = {"lr": 0.2, "weight_decay": 0.0, "clip_value": 0.1, "beta1": 0.5}
_BOXES = {"w": (ROW - 0.1, ROW + 0.1), "b": None}

OPTIONS = {
    "frozen": Case("Adam", {"groups": {"b": {"frozen": True}}}),
    "schedule": Case("Adam", {"lr": lambda t: 0.1 / (t + 1), "eps": lambda t: 0.1**t}),
    "l2": Case("Adam", _L2 | {"maximize": True, "clip_value": 0.5}),
    "groups": Case("Adam", _L2 | {"groups": {"b": _OF_B}}),
    "like torch": Case("Adam", _L2 | {"like": "torch"}),
    "like keras": Case("AdamW", _DECOUPLED | {"like": "keras"}, "float64"),
    "like tf1": Case("Adam", {"like": "tf1"}),
    "decoupled": Case("AdamW", _DECOUPLED | {"ema_warmup": True}, "float64"),
    "decay without lr": Case(
        "AdamW", _DECOUPLED | {"decay_times_lr": False, "ema_debias": True}, "float64"
    ),
    "norms out of range": Case("AdamW", _DECOUPLED, "float64", ("", "huge", "")),
    "raise": Case("SGD", _AVERAGED | {"nonfinite": "raise"}, "float64", ("", "nan", "")),
    "skip": Case("SGD", _AVERAGED | {"nonfinite": "skip"}, "float64", ("", "inf", "", "nan", "")),
    "bounds of each": Case("SGD", _AVERAGED | {"bounds": {"w": (0.1, None), "b": None}}, "float64"),
    "by element": Case(
        "AdamW", {"bounds": _BOXES, "clip_norm": np.inf, "weight_decay": 0.1, **BY_ELEMENT}
    ),
    "complex parts": Case("Adam", {"clip_norm": 1.0, "ema": 0.9, **BY_ELEMENT}, "complex64"),
    "complex modulus": Case(
        "Adam",
        {"complex_form": "modulus", "amsgrad": True, "clip_norm": 1.0, **BY_ELEMENT},
        "complex128",
    ),
}


def draw(shape, dtype, random):
    values = random.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * random.standard_normal(shape)
    return values.astype(dtype)


def drawn(case, random):
    """Numbers of the parameters' shapes, some of them 0."""
    arrays = {key: draw(shape, case.dtype, random) for key, shape in SHAPES.items()}
    arrays["b"][3] = 0
    return arrays


SHAPES = {"w": (3, 4), "b": (5,)}


def plan_of(case):
    return case.make(drawn(case, np.random.default_rng(11)))._settings.plan


def moved(value, asarray):
    """Options with their arrays on the device."""
    if isinstance(value, np.ndarray):
        return asarray(value)
    if isinstance(value, dict):
        return {key: moved(entry, asarray) for key, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(entry, asarray) for entry in value)
    return value


def run(case, asarray, asnumpy):
    """All that is left of the script: a dictionary of NumPy arrays and numbers."""
    random = np.random.default_rng(11)
    params = moved(drawn(case, random), asarray)
    opt = case.make(params, moved(case.options, asarray))
    left: dict[str, Any] = {"norms": []}
    for t, word in enumerate(case.script, 1):
        grads = drawn(case, random)
        if word in ("nan", "inf"):
            grads["w"][1, 2] = word
        if word == "huge":
            grads["w"] *= 1e200
        try:
            opt.step(moved({key: g / t for key, g in grads.items()}, asarray))  # for AMSGrad
        except FloatingPointError as error:
            left["error"] = str(error)
        if opt._settings.plan.norm:
            left["norms"].append(opt.grad_norm)
    left |= {key: asnumpy(p) for key, p in params.items()}
    for name, entry in opt.state.items():
        views = entry if isinstance(entry, dict) else {"": np.array(entry)}
        left |= {(name, key): None if a is None else asnumpy(a) for key, a in views.items()}
    if case.options.get("ema"):
        left |= {("averaged", key): asnumpy(a) for key, a in opt.averaged.items()}
    left["skipped"] = opt.skipped
    return left


#: Bound between GPU and CPU, which differ in the last bit of a product and a sum.
AGREE = {"complex64": 1e-4, "float32": 2e-5}


def check(case, asarray, asnumpy):
    """What the device leaves of the script, against the CPU back end."""
    of_cpu, of_gpu = run(case, np.array, np.asarray), run(case, asarray, asnumpy)
    assert list(of_gpu) == list(of_cpu)
    rtol = AGREE.get(case.dtype, 1e-12)
    for key, wanted in of_cpu.items():
        if wanted is None or isinstance(wanted, str):
            assert of_gpu[key] == wanted
            continue
        got = np.asarray(of_gpu[key])
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol, err_msg=str(key))

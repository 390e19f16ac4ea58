"""Runs of torch, optax, TF1 and Keras, recorded on one gradient sequence (see data/)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILES = ("torch", "optax", "keras", "keras-jax")
#: Options that every case of one library shares; the names of cases leave them out.
_COMMON = {"betas": [0.9, 0.999], **dict.fromkeys(["lr", "learning_rate"], 0.01)}
_COMMON |= dict.fromkeys(["b1", "beta_1", "beta1"], 0.9)
_COMMON |= dict.fromkeys(["b2", "beta_2", "beta2"], 0.999)


class Case(NamedTuple):
    """One recorded run: `after[step]` are the parameters after that many steps, in float64.

    `average` is that of the parameters at the end, where one was kept.
    """

    name: str
    dtype: np.dtype
    params0: np.ndarray
    grads: np.ndarray
    after: dict[int, np.ndarray]
    average: np.ndarray | None


def _floats(values):
    return np.array([float.fromhex(value) for value in values])


def recorded(file):
    """A file as it is: the inputs of all cases, and what each one gave."""
    path = Path(__file__).parent / "data" / f"{file}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def load():
    """Every recorded case of every file."""
    return [case for file in FILES for case in cases_of(file, recorded(file))]


def values_of(recorded, dtype):
    """The inputs of every case: the parameters at the start, and a gradient a step."""
    grads = np.array([_floats(row) for row in recorded["grads"]])
    return _floats(recorded["params0"]).astype(dtype), grads.astype(dtype)


def name_of(file, optimizer, given):
    """The name of a case, without the options that every case of its library shares."""
    options = [f"{key}={value}" for key, value in given.items() if _COMMON.get(key) != value]
    return " ".join([file, optimizer, *options])


def cases_of(file, recorded):
    """The cases of one file."""
    cases = []
    for case in recorded["cases"]:
        dtype, after = np.dtype(case["dtype"]), dict(case["after"])
        average = after.pop("ema", None)
        cases.append(
            Case(
                name_of(file, case["optimizer"], case["options"]),
                dtype,
                *values_of(recorded, dtype),
                {int(step): _floats(values) for step, values in after.items()},
                None if average is None else _floats(average),
            )
        )
    return cases


class Runs(NamedTuple):
    """A call that repeats the case, and how far apart the two may be.

    Distances are relative to the largest |p| that the element had so far: near zero a parameter
    is a small difference of large ones. In float32 the bound is in units of eps, for the other
    order of operations. Where one is 0, both are bit for bit.
    """

    make: object
    lr: object = 0.01
    float32: float = 4.0
    float64: float = 1e-12


def maker(rule):
    """``make(**options) -> make(p, lr)``, for a table of calls."""
    return lambda **options: lambda p, lr: rule(p, lr=lr, **options)


def follow(case, make, lr):
    """The largest distance from the recorded parameters, relative to the largest |p| so far."""
    p = case.params0.copy()
    opt = make(p, lr)
    scale = np.abs(case.params0).astype(np.float64)
    worst = 0.0
    assert max(case.after) == len(case.grads) == 40
    for taken, g in enumerate(case.grads, 1):
        opt.step(g.copy())
        scale = np.maximum(scale, np.abs(p))
        if taken in case.after:
            worst = max(worst, float(np.max(np.abs(p - case.after[taken]) / scale)))
    return worst

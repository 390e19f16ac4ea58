"""Runs of torch, optax, TF1 and Keras, recorded on one gradient sequence (see data/).

Keras's optimisers beside the calls of numadam that repeat them, and runs of live Keras.

``python -m tests.golden jax float64`` runs Keras on the recorded gradients, and writes a file
as those in ``data/`` to stdout. Keras takes its back end from the environment, so each one needs a
process of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import numadam as na

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


# --- keras runs ----------------------------------------------------------------------------------


BETAS = {"beta_1": 0.9, "beta_2": 0.999}
EMA = {"use_ema": True, "ema_momentum": 0.9}
DECAY = {"weight_decay": 0.1}
CENTERED = {"momentum": 0.9, "centered": True}
#: p - lr*wd*p and the step are added before they meet p: one rounding. Keras subtracts them one
#: after another.
SUBTRACTED_FIRST = 5.0
#: Keras rounds the scalars of Adam where the arrays are float32; in float64 all bits are the same.
ROUNDED = 4.0, 0.0
#: The bits are the same in both dtypes.
EXACT = 0.0, 0.0
#: Keras's class and options; ours, and the bounds where they are not those of `Runs`.
CASES = [
    ("Adam", BETAS, na.Adam, {}, *ROUNDED),
    ("Adam", BETAS | {"epsilon": 1e-3}, na.Adam, {"eps": 1e-3}, *ROUNDED),
    ("Adam", BETAS | {"amsgrad": True}, na.Adam, {"amsgrad": True}, *ROUNDED),
    ("Adam", BETAS | DECAY, na.Adam, DECAY, SUBTRACTED_FIRST),
    ("Adam", BETAS | {"clipnorm": 1.0}, na.Adam, {"clip_array_norm": 1.0}),
    ("Adam", BETAS | {"global_clipnorm": 1.0}, na.Adam, {"clip_norm": 1.0}),
    ("Adam", BETAS | {"clipvalue": 0.5}, na.Adam, {"clip_value": 0.5}, *ROUNDED),
    ("Adam", BETAS | EMA, na.Adam, {"ema": 0.9}, *ROUNDED),
    ("Adam", BETAS | {"use_ema": True}, na.Adam, {"ema": 0.99}, *ROUNDED),
    ("AdamW", BETAS | DECAY, na.AdamW, DECAY, SUBTRACTED_FIRST),
    ("Nadam", BETAS, na.NAdam, {}),
    ("Adamax", BETAS, na.AdaMax, {}),
    ("RMSprop", {"rho": 0.999}, na.RMSprop, {"beta2": 0.999}, *EXACT),
    ("RMSprop", {"rho": 0.9} | CENTERED, na.RMSprop, {"beta2": 0.9} | CENTERED),
    ("SGD", {}, na.SGD, {}, *EXACT),
    ("SGD", {"momentum": 0.9}, na.SGD, {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}, na.SGD, {"momentum": 0.9, "nesterov": True}),
    ("SGD", DECAY, na.SGD, DECAY, SUBTRACTED_FIRST),
    ("Lion", BETAS, na.Lion, {"beta2": 0.999}, *EXACT),
    ("Lion", BETAS | DECAY, na.Lion, {"beta2": 0.999} | DECAY, SUBTRACTED_FIRST),
    ("Adagrad", {}, na.Adagrad, {}, *EXACT),
]  # fmt: skip


def keras_rows(file, *bounds):
    """Keras by recorded case of a file, with its own bounds or these."""
    return {
        name_of(file, theirs, given): Runs(
            maker(ours)(like="keras", **options), 0.01, *(bounds or own)
        )
        for theirs, given, ours, options, *own in CASES
    }


def hexadecimal(values):
    return [float(value).hex() for value in np.asarray(values)]


def main(backend, dtype):
    os.environ |= {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1", "CUDA_VISIBLE_DEVICES": ""}
    import keras

    keras.backend.set_floatx(dtype)  # the learning rate is held in it
    inputs = recorded("keras")
    start, grads = values_of(inputs, dtype)
    cases = []
    for name, options, *_ in CASES:
        variable = keras.Variable(start, dtype=dtype)
        optimizer = getattr(keras.optimizers, name)(learning_rate=0.01, **options)
        optimizer.build([variable])
        after = {}
        for t, g in enumerate(grads, 1):
            optimizer.apply([keras.ops.convert_to_tensor(g, dtype=dtype)], [variable])
            if t in inputs["steps"]:
                after[t] = hexadecimal(keras.ops.convert_to_numpy(variable))
        if "use_ema" in options:
            (average,) = optimizer._model_variables_moving_average
            after["ema"] = hexadecimal(keras.ops.convert_to_numpy(average))
        given = {"learning_rate": 0.01, **options}
        version = f"keras {keras.__version__} / {backend}"
        case = {"library": "keras", "version": version, "optimizer": name, "options": given}
        cases.append(case | {"dtype": dtype, "after": after})
    json.dump({**inputs, "cases": cases}, sys.stdout, indent=0)


if __name__ == "__main__":
    main(*sys.argv[1:])

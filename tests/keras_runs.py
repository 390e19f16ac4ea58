"""Keras's optimisers beside the calls of numadam that repeat them, and runs of live Keras.

``python -m tests.keras_runs jax float64`` runs Keras on the recorded gradients, and writes a file
as those in ``data/`` to stdout. Keras takes its back end from the environment, so each one needs a
process of its own.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

import numadam as na
from tests.golden import Runs, maker, name_of, recorded, values_of

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

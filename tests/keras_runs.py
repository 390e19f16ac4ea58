"""Runs of live Keras on the recorded gradients: ``python -m tests.keras_runs jax float64``.

Writes a file as those in ``data/`` to stdout. Keras takes its back end from the environment, so
each one needs a process of its own.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from tests.golden import recorded, values_of

BETAS = {"beta_1": 0.9, "beta_2": 0.999}
EMA = {"use_ema": True, "ema_momentum": 0.9}
CASES = [
    ("Adam", BETAS),
    ("Adam", BETAS | {"epsilon": 1e-3}),
    ("Adam", BETAS | {"amsgrad": True}),
    ("Adam", BETAS | {"weight_decay": 0.1}),
    ("Adam", BETAS | {"clipnorm": 1.0}),
    ("Adam", BETAS | {"global_clipnorm": 1.0}),
    ("Adam", BETAS | {"clipvalue": 0.5}),
    ("Adam", BETAS | EMA),
    ("Adam", BETAS | {"use_ema": True}),
    ("Adam", BETAS | {"gradient_accumulation_steps": 4}),
    ("Adam", BETAS | EMA | {"gradient_accumulation_steps": 4}),
    ("Adam", BETAS | {"loss_scale_factor": 4.0}),
    ("AdamW", BETAS | {"weight_decay": 0.1}),
    ("Nadam", BETAS),
    ("Adamax", BETAS),
    ("RMSprop", {"rho": 0.999}),
    ("RMSprop", {"rho": 0.9, "momentum": 0.9, "centered": True}),
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"weight_decay": 0.1}),
    ("Lion", BETAS),
    ("Lion", BETAS | {"weight_decay": 0.1}),
    ("Adagrad", {}),
]


def hexadecimal(values):
    return [float(value).hex() for value in np.asarray(values)]


def main(backend, dtype):
    os.environ |= {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1", "CUDA_VISIBLE_DEVICES": ""}
    import keras

    keras.backend.set_floatx(dtype)  # the learning rate is held in it
    inputs = recorded("keras")
    start, grads = values_of(inputs, dtype)
    cases = []
    for name, options in CASES:
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

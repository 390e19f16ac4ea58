"""Trajectories of torch, optax, Keras and TF1, recorded on one gradient sequence (see data/)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

FILES = ("torch", "optax", "keras")
#: Options that every case of one library shares; the names of cases leave them out.
_COMMON = {
    "lr": 0.01,
    "learning_rate": 0.01,
    "betas": [0.9, 0.999],
    "b1": 0.9,
    "b2": 0.999,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "beta1": 0.9,
    "beta2": 0.999,
}


class Case(NamedTuple):
    """One recorded run: `after[step]` are the parameters after that many steps, in float64."""

    name: str
    dtype: np.dtype
    params0: np.ndarray
    grads: np.ndarray
    after: dict[int, np.ndarray]


def _floats(values):
    return np.array([float.fromhex(value) for value in values])


def load():
    """Every recorded case of every file."""
    cases = []
    for file in FILES:
        text = (Path(__file__).parent / "data" / f"{file}.json").read_text(encoding="utf-8")
        recorded = json.loads(text)
        params0 = _floats(recorded["params0"])
        grads = np.array([_floats(row) for row in recorded["grads"]])
        for case in recorded["cases"]:
            options = [
                f"{key}={value}"
                for key, value in case["options"].items()
                if _COMMON.get(key) != value
            ]
            dtype = np.dtype(case["dtype"])
            cases.append(
                Case(
                    " ".join([file, case["optimizer"], *options]),
                    dtype,
                    params0.astype(dtype),
                    grads.astype(dtype),
                    {
                        int(step): _floats(values)
                        for step, values in case["after"].items()
                        if step != "ema"  # the average at the end: not the parameters
                    },
                )
            )
    return cases


def averages():
    """The recorded averages of the parameters, by dtype: (params0, grads, average at the end)."""
    text = (Path(__file__).parent / "data" / "keras.json").read_text(encoding="utf-8")
    recorded = json.loads(text)
    params0 = _floats(recorded["params0"])
    grads = np.array([_floats(row) for row in recorded["grads"]])
    return {
        case["dtype"]: (
            params0.astype(case["dtype"]),
            grads.astype(case["dtype"]),
            _floats(case["after"]["ema"]),
        )
        for case in recorded["cases"]
        if "ema" in case["after"]
    }

"""The nonlinear sets of NIST's Statistical Reference Datasets, without a derivative by hand."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import numadam as na

DATA = json.loads((Path(__file__).parents[1] / "data" / "nist.json").read_text(encoding="utf-8"))
SINES = " + ".join(
    f"b{k + 1} * np.cos(2 * pi * x / {p}) + b{k + 2} * np.sin(2 * pi * x / {p})"
    for k, p in ((1, 12), (4, "b4"), (7, "b7"))
)
PEAKS = "b1 * np.exp(-b2 * x)" + "".join(
    f" + b{k} * np.exp(-(((x - b{k + 1}) / b{k + 2}) ** 2))" for k in (3, 6)
)
DECAYS = "b1 * np.exp(-b2 * x) + b3 * np.exp(-b4 * x) + b5 * np.exp(-b6 * x)"
CUBIC = "(b1 + b2 * x + b3 * x**2 + b4 * x**3) / (1 + b5 * x + b6 * x**2 + b7 * x**3)"
#: by name: the model, as NIST writes it, a name for each unknown
MODELS = {
    "Bennett5": "b1 * (b2 + x) ** (-1 / b3)",
    "BoxBOD": "b1 * (1 - np.exp(-b2 * x))",
    "Chwirut1": "np.exp(-b1 * x) / (b2 + b3 * x)",
    "Chwirut2": "np.exp(-b1 * x) / (b2 + b3 * x)",
    "DanWood": "b1 * x**b2",
    "ENSO": f"b1 + {SINES}",
    "Eckerle4": "b1 / b2 * np.exp(-0.5 * ((x - b3) / b2) ** 2)",
    "Gauss1": PEAKS,
    "Gauss2": PEAKS,
    "Gauss3": PEAKS,
    "Hahn1": CUBIC,
    "Kirby2": "(b1 + b2 * x + b3 * x**2) / (1 + b4 * x + b5 * x**2)",
    "Lanczos1": DECAYS,
    "Lanczos2": DECAYS,
    "Lanczos3": DECAYS,
    "MGH09": "b1 * (x**2 + x * b2) / (x**2 + x * b3 + b4)",
    "MGH10": "b1 * np.exp(b2 / (x + b3))",
    "MGH17": "b1 + b2 * np.exp(-x * b4) + b3 * np.exp(-x * b5)",
    "Misra1a": "b1 * (1 - np.exp(-b2 * x))",
    "Misra1b": "b1 * (1 - (1 + b2 * x / 2) ** -2)",
    "Misra1c": "b1 * (1 - (1 + 2 * b2 * x) ** -0.5)",
    "Misra1d": "b1 * b2 * x / (1 + b2 * x)",
    "Nelson": "b1 - b2 * x * np.exp(-b3 * x2)",  # of log(y)
    "Rat42": "b1 / (1 + np.exp(b2 - b3 * x))",
    "Rat43": "b1 / (1 + np.exp(b2 - b3 * x)) ** (1 / b4)",
    "Roszman1": "b1 - b2 * x - np.arctan(b3 / (x - b4)) / pi",
    "Thurber": CUBIC,
}
TEXT = """
def model(b, x, x2):
    {names} = b
    return {model}

def fun(b, r, x, y):
    for k in range(y.size):
        r[k] = model(b, x[0, k], x[-1, k]) - y[k]

def with_j(b, r, J, x, y):
    fun(b, r, x, y)
    for j in range(b.size):
        c = b.astype(np.complex128)
        c[j] += 1e-30j  # exact: nothing is subtracted
        for k in range(y.size):
            J[k, j] = model(c, x[0, k], x[-1, k]).imag / 1e-30
"""


@functools.cache
def functions(name: str) -> dict[str, Any]:
    names = ", ".join(f"b{k + 1}" for k in range(len(DATA[name]["certified"])))
    scope: dict[str, Any] = {"np": np, "pi": math.pi}
    exec(TEXT.format(names=names, model=MODELS[name]), scope)
    for function in ("model", "fun", "with_j"):
        scope[function] = numba.njit(error_model="numpy")(scope[function])
    return scope


def fit(name: str, by_hand: bool, tolerance: float) -> Any:
    """Fits from both starts."""
    starts, x, y = (np.array(DATA[name][part]) for part in ("starts", "x", "y"))
    return na.least_squares_many(
        functions(name)["with_j" if by_hand else "fun"],
        starts,
        (x, np.log(y) if name == "Nelson" else y),
        m=y.size,
        jac=by_hand or None,
        max_nfev=5000,
        **dict.fromkeys(("ftol", "xtol", "gtol"), tolerance),
    )


def digits(name: str, x: np.ndarray) -> np.ndarray:
    """Digits that are right of the worst unknown, from each start."""
    certified = np.array(DATA[name]["certified"])
    with np.errstate(divide="ignore"):
        found = -np.log10(np.abs(x - certified) / np.abs(certified))
    return np.nan_to_num(found, nan=0.0, posinf=11.0).min(axis=1)


@pytest.mark.parametrize("name", ["Misra1a", "BoxBOD", "MGH09", "Rat42"])
def test_certified_values(name):
    """Six digits of x and four of its errors, from both starts."""
    res = fit(name, False, 1e-14)
    assert (digits(name, res.x) > 6).all()
    np.testing.assert_allclose(res.stderr, [DATA[name]["errors"]] * 2, rtol=1e-4)


@pytest.mark.sweep
def test_as_many_are_solved_as_by_hand():
    """The table of docs/development/benchmarks: the eighth digit is a matter of rounding."""
    assert MODELS.keys() == DATA.keys()
    for tolerance, solved in ((1e-8, 51), (1e-13, 54)):
        exact, by_hand = (
            np.concatenate([digits(name, fit(name, given, tolerance).x) for name in MODELS])
            for given in (False, True)
        )
        assert np.sum(exact >= 4) == np.sum(by_hand >= 4) == solved
        assert np.sum(exact >= 6) == np.sum(by_hand >= 6)
        assert np.sum(exact >= 8) >= np.sum(by_hand >= 8) - 3

"""The table of public codes in the docs: each setting against the lines of that code.

The references below repeat, operation by operation, what each code does to its arrays.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

import numadam as na

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "other-libraries.md"
EPS = np.finfo(float).eps


def moments(g, m, v, b1=0.9, b2=0.999):
    return b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2


def textbook(lr=0.001, b1=0.9, b2=0.999, eps=1e-8, root=0.0):
    """``x - lr * mhat / (sqrt(vhat) + eps)``, from left to right; lr may depend on t."""

    def step(x, g, m, v, t):
        m, v = moments(g, m, v, b1, b2)
        rate = lr(t) if callable(lr) else lr
        return x - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t) + root) + eps), m, v

    return step


def direction(lr=0.001, b1=0.9):
    """``u = mhat / (sqrt(vhat) + eps)``, then ``x - lr * u``."""

    def step(x, g, m, v, t):
        m, v = moments(g, m, v, b1)
        u = m / (1 - b1**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return x - lr * u, m, v

    return step


def hat(lr=0.001, b2=0.999, sign=1.0):
    """``x - lr_t * m / (sqrt(v) + eps)``."""

    def step(x, g, m, v, t):
        m, v = moments(sign * g, m, v, b2=b2)
        rate = lr * np.sqrt(1 - b2**t) / (1 - 0.9**t)
        return x - rate * m / (np.sqrt(v) + 1e-8), m, v

    return step


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


def odl(x, g, m, v, t):
    m, v = moments(g, m, v)
    step = 1e-3 * math.sqrt(1 - 0.999) / (1 - 0.9)
    return x - step * (m / (np.sqrt(v) + 1e-8)), m, v


def qiskit(x, g, m, v, t):
    m = 0.9 * m + (1 - 0.9) * g
    v = 0.99 * v + (1 - 0.99) * g * g
    rate = 1e-3 * np.sqrt(1 - 0.99**t) / (1 - 0.9**t)
    return x - rate * m / (np.sqrt(v) + 1e-8), m, v


def pacmap(x, g, m, v, t):
    """Its arrays are float32 and its numbers float64, as Numba compiles it."""
    rate = 1.0 * math.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
    m = (m + (1 - 0.9) * (g - m).astype(float)).astype("f4")
    v = (v + (1 - 0.999) * (g * g - v).astype(float)).astype("f4")
    return (x - rate * m / (np.sqrt(v).astype(float) + 1e-7)).astype("f4"), m, v


#: The code, by its name in the table; its lines; and how far apart p may be, in units of eps.
CODES = {
    "autograd": (textbook(), 0),
    "jenn": (textbook(0.05, b2=0.99, eps=0.0, root=EPS), 0),
    "proxmin": (textbook(0.1), 0),
    "pyvbmc": (
        textbook(lambda t: 0.001 + (0.1 - 0.001) * np.exp(-t / 200), eps=np.sqrt(np.spacing(1))),
        0,
    ),
    "pints": (pints, 0),
    "quimb": (direction(), 0),
    "ceviche": (direction(0.01), 0),
    "legume": (direction(0.01), 0),
    "dagma": (direction(3e-4, b1=0.99), 0),
    "ODL": (odl, 0),
    "scikit-learn": (hat(), 0),
    "pyribs": (hat(sign=-1.0), 0),
    "PennyLane": (hat(0.01, b2=0.99), 0),
    "qiskit-algorithms": (qiskit, 0),
    "pybop": (pybop, 4),
    "PaCMAP": (pacmap, 20),
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
    step, units = CODES[name]
    assert close.startswith("bit for bit" if units == 0 else f"{units} units")
    dtype = "f4" if name == "PaCMAP" else "f8"
    rng = np.random.default_rng(5)
    grads = (rng.standard_normal((300, 40)) * 10.0 ** rng.uniform(-6, 3, 40)).astype(dtype)
    grads[5], grads[:, 3] = 0.0, np.where(rng.random(300) < 0.05, grads[:, 3], 0.0)
    grads[0, 3] = 1.0
    x = rng.standard_normal(40).astype(dtype)
    p, m, v = x.copy(), np.zeros_like(x), np.zeros_like(x)
    opt = eval(setting, {"na": na, "np": np, "math": math, "x": x})
    largest = np.abs(x).astype(float)
    for t, g in enumerate(grads, 1):
        p, m, v = step(p, g, m, v, t)
        opt.step(g)
        largest = np.maximum(largest, np.abs(p))
        apart = np.abs(x.astype(float) - p)
        assert np.all(apart <= units * np.finfo(dtype).eps * largest), t
        if units == 0:
            np.testing.assert_array_equal(opt.state["m"], m)
            np.testing.assert_array_equal(opt.state["v"], v)

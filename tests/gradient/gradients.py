"""Functions with right gradients, and ways to get a gradient wrong."""

from __future__ import annotations

import numpy as np
from optree import tree_map
from scipy.optimize import rosen, rosen_der

T = np.linspace(0, 3, 40)
rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape)


SCENE = normal(30, 5) + 1j * normal(30, 5)
MATRIX = normal(4, 4)
IN, OUT = normal(20, 3), normal(20, 2)


def changed(fun, change):
    """`fun` with a gradient that is changed."""

    def with_change(x):
        f, g = fun(x)
        return f, change(g)

    return with_change


def valley(x):
    return float(rosen(x)), rosen_der(x)


def steep(x):
    """Curvatures from 1 to 1e6."""
    weights = np.logspace(0, 6, x.size)
    return float(0.5 * weights @ (x - 1) ** 2), weights * (x - 1)


def decays(x):
    """Two exponentials beside data."""
    fast, slow = np.exp(-x[1] * T), np.exp(-x[3] * T)
    r = x[0] * fast + x[2] * slow - np.exp(-T)
    g = [r @ fast, -x[0] * r @ (T * fast), r @ slow, -x[2] * r @ (T * slow)]
    return float(r @ r), 2 * np.array(g)


def units(x):
    """A width of micrometres beside a temperature."""
    scale = np.array([1e-6, 100.0])
    r = (x - [2e-6, 310.0]) / scale
    return float(np.sum(np.cosh(r))), np.sinh(r) / scale


def waves(x):
    """A matrix, in an asymmetric function."""
    return float(np.sum(np.sin(MATRIX * x))), MATRIX * np.cos(MATRIX * x)


def amplitudes(z):
    """Phase retrieval: complex x."""
    seen = SCENE @ z
    r = abs(seen) ** 2 - 1
    return float(r @ r), 4 * (SCENE.conj().T @ (r * seen))


def network(p):
    """Two layers, as a dict of arrays."""
    hidden = np.tanh(IN @ p["w"] + p["b"])
    r = hidden @ p["out"] - OUT
    back = 2 * r @ p["out"].T * (1 - hidden**2)
    return float(np.sum(r**2)), {"w": IN.T @ back, "b": back.sum(0), "out": 2 * hidden.T @ r}


def nested(p):
    """A list in a dict, a number, an array of three axes."""
    f = float(np.sum(p["a"][0] ** 3) + np.exp(p["a"][1]) + np.sum(np.sin(p["b"])))
    return f, {"a": [3 * p["a"][0] ** 2, np.exp(p["a"][1])], "b": np.cos(p["b"])}


def logarithms(x):
    """Defined for x > 0 only."""
    return float(np.sum(x * np.log(x))), np.log(x) + 1


def narrow(x0):
    """The same start in float32 or complex64."""
    return tree_map(lambda leaf: leaf.astype("c8" if leaf.dtype.kind == "c" else "f4"), x0)


def cubes(x):
    """Some elements without influence."""
    g = np.zeros(x.shape)
    g[::3] = 3 * x[::3] ** 2
    return float(np.sum(x[::3] ** 3)), g


#: (function, x0) of right gradients
RIGHT = {
    "valley": (valley, np.array([-1.2, 1.0, 0.5, 2.0])),
    "steep": (steep, np.linspace(-1, 1, 9)),
    "decays": (decays, np.array([1.0, 0.5, 1.0, 2.0])),
    "units": (units, np.array([1e-6, 290.0])),
    "waves": (waves, normal(4, 4)),
    "amplitudes": (amplitudes, normal(5) + 1j * normal(5)),
    "network": (network, {"w": normal(3, 4), "b": normal(4), "out": normal(4, 2)}),
    "nested": (nested, {"a": [normal(3), np.array(0.7)], "b": normal(2, 3, 2)}),
    "logarithms": (logarithms, np.array([1e-3, 0.5, 2.0, 30.0])),
    "cubes": (cubes, normal(20)),
    "number": (lambda x: (float(x**2), 2 * x), np.array(3.0)),
}

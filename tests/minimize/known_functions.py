"""Functions with known minima, in one form: compiled, ``fun(x, g) -> f``."""

import numba
import numpy as np


@numba.njit
def rosenbrock(x, g):
    """The chained one, of any size: 0 at (1, ..., 1)."""
    f = 0.0
    for i in range(x.size - 1):
        d, e = x[i + 1] - x[i] * x[i], 1.0 - x[i]
        f += 100.0 * d * d + e * e
        g[i] -= 400.0 * x[i] * d + 2.0 * e
        g[i + 1] += 200.0 * d
    return f


@numba.njit
def beale(x, g):
    """0 at (3, 0.5)."""
    f, power = 0.0, 1.0
    for k in range(3):
        target = 1.5 if k == 0 else (2.25 if k == 1 else 2.625)
        slope = (k + 1) * power
        power *= x[1]
        r = target - x[0] * (1.0 - power)
        f += r * r
        g[0] -= 2.0 * r * (1.0 - power)
        g[1] += 2.0 * r * x[0] * slope
    return f


@numba.njit
def powell_singular(x, g):
    """0 at 0, where its second derivative is singular."""
    a, b, c, d = x[0] + 10.0 * x[1], x[2] - x[3], x[1] - 2.0 * x[2], x[0] - x[3]
    g[0] = 2.0 * a + 40.0 * d * d * d
    g[1] = 20.0 * a + 4.0 * c * c * c
    g[2] = 10.0 * b - 8.0 * c * c * c
    g[3] = -10.0 * b - 40.0 * d * d * d
    return a * a + 5.0 * b * b + c * c * c * c + 10.0 * d * d * d * d


def in_python(compiled):
    """The same numbers from a function that returns (f, gradient)."""

    def fun(x):
        g = np.zeros_like(x)
        return compiled(x, g), g

    return fun

"""Three data sets of NIST's Statistical Reference Datasets for nonlinear regression.

https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml: observed data of lower difficulty, with
parameters and residual sums of squares that are certified to 11 digits. A work of the United
States government, in the public domain.
"""

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Data of NIST, and the model with its derivative by parameter."""

    name: str
    model: object
    jacobian: object
    starts: tuple
    certified: np.ndarray
    squares: float
    x: np.ndarray
    y: np.ndarray


def _misra1a(b, x):
    return b[0] * (1.0 - np.exp(-b[1] * x))


def _misra1a_jacobian(b, x):
    fall = np.exp(-b[1] * x)
    return np.stack([1.0 - fall, b[0] * x * fall])


def _danwood(b, x):
    return b[0] * x ** b[1]


def _danwood_jacobian(b, x):
    power = x ** b[1]
    return np.stack([power, b[0] * power * np.log(x)])


def _chwirut(b, x):
    return np.exp(-b[0] * x) / (b[1] + b[2] * x)


def _chwirut_jacobian(b, x):
    below = b[1] + b[2] * x
    y = np.exp(-b[0] * x) / below
    return np.stack([-x * y, -y / below, -x * y / below])


def _pairs(text):
    y, x = np.array(text.split(), np.float64).reshape(-1, 2).T
    return {"x": x.copy(), "y": y.copy()}


MISRA1A = Dataset(
    "Misra1a",
    _misra1a,
    _misra1a_jacobian,
    starts=((500.0, 0.0001), (250.0, 0.0005)),
    certified=np.array([2.3894212918e02, 5.5015643181e-04]),
    squares=1.2455138894e-01,
    **_pairs("""
        10.07 77.6  14.73 114.9  17.94 141.1  23.93 190.8  29.61 239.9  35.18 289.0  40.02 332.8
        44.82 378.4  50.76 434.8  55.05 477.3  61.01 536.8  66.40 593.1  75.47 689.1  81.78 760.0
    """),
)

DANWOOD = Dataset(
    "DanWood",
    _danwood,
    _danwood_jacobian,
    starts=((1.0, 5.0), (0.7, 4.0)),
    certified=np.array([7.6886226176e-01, 3.8604055871e00]),
    squares=4.3173084083e-03,
    **_pairs("2.138 1.309  3.421 1.471  3.597 1.490  4.340 1.565  4.882 1.611  5.660 1.680"),
)

CHWIRUT2 = Dataset(
    "Chwirut2",
    _chwirut,
    _chwirut_jacobian,
    starts=((0.1, 0.01, 0.02), (0.15, 0.008, 0.010)),
    certified=np.array([1.6657666537e-01, 5.1653291286e-03, 1.2150007096e-02]),
    squares=5.1304802941e02,
    **_pairs("""
        92.9 0.5  57.1 1.0  31.05 1.75  11.5875 3.75  8.025 5.75  63.6 0.875  21.4 2.25
        14.25 3.25  8.475 5.25  63.8 0.75  26.8 1.75  16.4625 2.75  7.125 4.75  67.3 0.625
        41.0 1.25  21.15 2.25  8.175 4.25  81.5 0.5  13.12 3.0  59.9 0.75  14.62 3.0  32.9 1.5
        5.44 6.0  12.56 3.0  5.44 6.0  32.0 1.5  13.95 3.0  75.8 0.5  20.0 2.0  10.42 4.0
        59.5 0.75  21.67 2.0  8.55 5.0  62.0 0.75  20.2 2.25  7.76 3.75  3.75 5.75  11.81 3.0
        54.7 0.75  23.7 2.5  11.55 4.0  61.3 0.75  17.7 2.5  8.74 4.0  59.2 0.75  16.3 2.5
        8.62 4.0  81.0 0.5  4.87 6.0  14.62 3.0  81.7 0.5  17.17 2.75  81.3 0.5  28.9 1.75
    """),
)

ALL = (MISRA1A, DANWOOD, CHWIRUT2)

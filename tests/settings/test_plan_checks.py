"""Options that do not fit the dtype of the parameters, or each other, at the edge of what fits."""

from __future__ import annotations

import re

import numpy as np
import pytest

import numadam as na
from numadam._optimizer.base import make_optimizer

NARROW = "state_dtype: float64 holds more digits than the arithmetic, which is float32 for "
HALVES = "state_dtype: there are no complex numbers of bfloat16 parts for the state of complex64 "
SMALL = "state_dtype: squares of gradients below 2e-4 are 0 in float16, and steps then too long"
MASTER = "master: is for float16 and bfloat16 parameters, these are "
WHOLE = "complex_form: rmsprop with these options uses the gradient otherwise than by its square"
ROWS = "bounds: with sparse='lazy' the norm would need them row by row; use sparse='dense', or "
LAZY = {"sparse": "lazy", "bounds": (0, 1)}


class Nothing:
    """A back end that takes all options and compiles nothing."""

    home = "NumPy"

    def __init__(self, settings, params, names):
        self.params = params

    @staticmethod
    def check_params(params, names):
        pass


@pytest.mark.parametrize(
    ("rule", "dtype", "options", "says"),
    [
        (na.Adam, "float32", {"state_dtype": "float64"}, NARROW),
        (na.Adam, "float32", {"state_dtype": "float32"}, ""),
        (na.Adam, "float64", {"state_dtype": "float64"}, ""),
        (na.Adam, "float64", {"state_dtype": "float32"}, ""),
        (na.Adam, "complex64", {"state_dtype": "float64"}, NARROW),
        (na.Adam, "complex64", {"state_dtype": "bfloat16"}, HALVES),
        (na.Adam, "complex128", {"state_dtype": "float32"}, ""),
        (na.Adam, "float32", {"state_dtype": "bfloat16"}, ""),
        (na.Adam, "float32", {"state_dtype": "float16"}, SMALL),
        (na.Adam, "float16", {"state_dtype": "float16"}, SMALL),
        (na.Adam, "float16", {"master": True}, ""),
        (na.Adam, "float32", {"master": True}, MASTER + "float32; leave it out."),
        (na.Adam, "float64", {"master": True}, MASTER + "float64; leave it out."),
        (na.Adam, "complex64", {"complex_form": "modulus"}, ""),
        (na.RMSprop, "complex64", {"complex_form": "modulus"}, ""),
        (na.RMSprop, "complex64", {"complex_form": "modulus", "centered": True}, WHOLE),
        (na.SGD, "float64", {**LAZY, "clip_norm": 1.0}, ROWS),
        (na.SGD, "float64", {**LAZY, "nonfinite": "skip"}, ROWS),
        (na.SGD, "float64", {**LAZY, "clip_value": 1.0}, ""),
        (na.SGD, "float64", {"sparse": "lazy", "clip_norm": 1.0}, ""),
        (na.SGD, "float64", {**LAZY, "clip_norm": 1.0, "sparse": "dense"}, ""),
    ],
)
def test_options_that_fit_no_plan(rule, dtype, options, says):
    p = np.full(2, 0.5, dtype)
    if not says:
        make_optimizer(rule, p, 0.1, backend=Nothing, **options)
        return
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        rule(p, **options)

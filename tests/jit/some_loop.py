"""A loop with a formula, of any dtype and form; for processes of their own, too."""

import numpy as np
from numba import prange, types

from numadam._jit.build import compiled

TEXT = """
@njit(error_model="numpy")
def one(x):
    return change(x)

def run(a):
    for i in prange(a.size):
        a[i] = one(a[i])
"""


def plus(k):
    def change(x):
        return x + k

    return change


def loop(k=1, kind="float64", **how):
    scope = {"change": plus(k), "prange": prange}
    signature = types.void(getattr(types, kind)[::1])
    return compiled("loop", TEXT, scope, signature, entry="run", **how)


def value(k=1, kind="float64", **how):
    a = np.ones(3, kind)
    loop(k, kind, **how)(a)
    return float(a[2])

"""Every rule as functions for the user's own compiled code: ``@njit`` solvers, CUDA kernels.

For each rule there are ``NAME_update``, one step on arrays in place, ``NAME_element``, one step of
one number, and ``NAME_scalars``, the numbers that all elements of a step share. They use the
rule's default form and give the same bits as its optimiser. See docs/how-to/own-solver.md.

`VERSION` changes whenever a formula may have changed. Numba stores the formula in the cache of the
user's module (``cache=True``) and does not notice such a change.
"""

from numadam.nopython.core import VERSION
from numadam.nopython.functions import FUNCTIONS

globals().update(FUNCTIONS)
__all__ = ["VERSION", *FUNCTIONS]


def __dir__() -> list[str]:
    return __all__

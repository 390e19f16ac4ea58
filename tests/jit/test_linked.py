"""Functions that exist only inside other compiled code."""

import numba
import numpy as np
import pytest
from numba import float64, int64
from numba.core.errors import TypingError

from numadam._jit.functions import linked
from numadam._jit.pointers import array_at


def test_it_runs_inside_another_and_has_no_code_of_its_own() -> None:
    @linked
    def twice(x):
        return x + x

    @linked
    def four_times(x):
        return twice(twice(x))

    @numba.njit(float64(float64), no_cfunc_wrapper=True)
    def called(x):
        return four_times(x) + twice(x)

    assert called(1.5) == 9.0
    for function in (twice, four_times):
        (compiled,) = function.overloads.values()
        assert compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name) == 0


def test_an_array_is_not_returned() -> None:
    """Its references would not be counted."""

    @linked
    def doubled(x):
        return x + x

    @numba.njit
    def called(x):
        return doubled(x).sum()

    with pytest.raises(TypingError, match="returning of array"):
        called(np.ones(3))


def test_arrays_by_address() -> None:
    @numba.njit(float64(int64))
    def corner(address):
        return array_at(address, 6, np.float64)[5] + array_at(address, (2, 3), np.float64)[1, 0]

    x = np.arange(6.0)
    assert corner(x.ctypes.data) == 8.0

"""PTX of the user's own kernels with the functions of `numadam.nopython`, without a GPU."""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace

import pytest
from numba import cuda, types

from numadam import nopython
from numadam.rules import CLASSES
from tests.cuda.kernel_code import Code, check_arithmetic

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def capability(monkeypatch):
    """A GPU to compile for."""
    import numba.cuda.dispatcher as dispatcher

    device = SimpleNamespace(compute_capability=(9, 0))
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)


def ptx_of(rule, formed):
    """A kernel over one element a thread; `formed`: with the scalars formed in it."""
    parameters = list(inspect.signature(getattr(nopython, f"{rule}_element")).parameters)
    names = parameters[: parameters.index("h")]
    scalars = getattr(nopython, f"{rule}_scalars")
    t = "t" if "t" in inspect.signature(scalars).parameters else ""
    values = ", ".join(f"{name}[i]" for name in names)
    kept = ", ".join(f"{name}[i]" for name in names if name != "g")
    text = (
        f"def kernel({', '.join(names)}, h, t):\n"
        "    i = cuda.grid(1)\n"
        "    if i < p.size:\n"
        f"        {kept} = {rule}_element({values}, {f'{rule}_scalars({t})' if formed else 'h'})\n"
    )
    scope = {"cuda": cuda, **vars(nopython)}
    exec(text, scope)
    count = len(scalars(1) if t else scalars())
    kinds = [types.float32[::1]] * len(names) + [types.UniTuple(types.float64, count), types.int64]
    return Code(lambda: (scope["kernel"], types.void(*kinds)), by_cupy=False).text


@pytest.mark.parametrize("rule", CLASSES)
def test_elements_are_calculated_in_single_precision(rule):
    ptx = ptx_of(rule, formed=False)
    check_arithmetic(ptx)
    doubles = set(re.findall(r"[a-z][a-z0-9.]*\.f64", ptx)) - {"ld.param.f64", "cvt.rn.f32.f64"}
    # compares the decay with 0, before it is rounded
    assert doubles <= {"setp.eq.f64", "setp.neu.f64"}


@pytest.mark.parametrize("rule", ["adam", "radam", "lion"])
def test_scalars_are_formed_in_double_precision(rule):
    ptx = ptx_of(rule, formed=True)
    assert ".local" not in ptx
    assert ".f64" in ptx or rule == "lion"

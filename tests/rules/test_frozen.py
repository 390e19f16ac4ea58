"""Digests of users' formulas: equal where the code is; and copies that keep the values of now."""

from __future__ import annotations

import types

import numba
import numpy as np
import pytest

from numadam.rules._frozen import frozen

SOURCE = '''
import math, numba, numpy as np, constants
G = 2.0
TABLE = np.array([1.0, 2.0])

@numba.njit
def deep(a, power=2):
    return a ** power + 0.5

@numba.njit(fastmath=False)
def helper(a):
    return deep(a) * math.pi

def make(scale):
    def fun(x):
        """Its documentation."""
        return helper(x * G + TABLE[1]) * scale + np.sqrt(x) * constants.SHIFT + constants.half(x)
    return fun

fun = make(1.5)
'''


@pytest.fixture(autouse=True)
def constants(monkeypatch):
    """A module of the user's."""
    module = types.ModuleType("constants")
    exec("import numba\nSHIFT = 1\n@numba.njit\ndef half(a): return a / 2", vars(module))
    monkeypatch.setitem(__import__("sys").modules, "constants", module)
    return module


def made(source=SOURCE, file="<stdin>", name="__main__"):
    values = {"__name__": name}
    exec(compile(source, file, "exec"), values)
    return values["fun"]


def digest(fun):
    return frozen([fun])[1]


CHANGES = [
    ("G = 2.0", "G = 2.5"),
    ("G = 2.0", "G = 2"),
    ("G = 2.0", "G = np.float32(2.0)"),
    ("np.array([1.0, 2.0])", "np.array([1.0, 2.5])"),
    ("np.array([1.0, 2.0])", "np.array([1.0, 2.0], 'f4')"),
    ("np.array([1.0, 2.0])", "(1.0, 2.0)"),
    ("power=2", "power=3"),
    ("power=2", "power=2.0"),
    ("+ 0.5", "+ -0.0"),
    ("+ 0.5", "+ 0.0"),
    ("make(1.5)", "make(1.25)"),
    ("x * G", "x - G"),
    ("np.sqrt(x)", "np.cos(x)"),
    ("math.pi", "math.e"),
    ("fastmath=False", "fastmath=True"),
    ("fastmath=False", "error_model='numpy'"),
]


def test_digests_are_those_of_code_and_values(constants, monkeypatch):
    first = digest(made())
    assert digest(made("\n\n" + SOURCE, "<ipython-input-7-0a>", "elsewhere")) == first
    seen = {first}
    for old, new in CHANGES:
        assert old in SOURCE, old
        found = digest(made(SOURCE.replace(old, new)))
        assert found not in seen, (old, new)
        seen.add(found)
    fun = made()
    monkeypatch.setattr(constants, "unread", object(), raising=False)
    assert digest(fun) == first
    monkeypatch.setattr(constants, "SHIFT", 2)
    assert digest(fun) not in seen
    monkeypatch.setattr(constants, "SHIFT", 1)
    exec("@numba.njit\ndef half(a): return a / 3", vars(constants))
    assert digest(fun) not in seen


def test_copies_keep_the_values_of_now(constants):
    fun = made()
    (copy,), _ = frozen([fun])
    before = fun(4.0)
    fun.__globals__["G"] = 100.0
    constants.SHIFT = 50
    fun.__globals__["TABLE"][:] = 7.0
    assert numba.njit(copy)(4.0) == before
    assert fun(4.0) != before


def test_modules_may_import_each_other_and_functions_may_not_call_themselves(constants):
    other = types.ModuleType("other")
    constants.other, other.constants, other.SHIFT = other, constants, 2
    fun = made(SOURCE.replace("constants.SHIFT", "constants.other.SHIFT * constants.SHIFT"))
    (copy,), first = frozen([fun])
    assert numba.njit(copy)(4.0) == fun(4.0)
    assert digest(fun) == first
    other.SHIFT = 3
    assert digest(fun) != first
    with pytest.raises(TypeError, match=r"^fun: deep calls itself; write a loop\.$"):
        frozen([made(SOURCE.replace("a ** power", "deep(a)"))])


@pytest.mark.parametrize("value", ["object()", "[1.0]", "np.zeros(200_000)", "lambda a: a", "open"])
def test_what_cannot_be_told_is_named(value):
    with pytest.raises(TypeError, match=r"fun: G is (of type|a Python function)"):
        frozen([made(SOURCE.replace("G = 2.0", f"G = {value}"))])


def test_names_that_the_code_does_not_have_are_not_read():
    assert np.isfinite(made()(1.0))
    with pytest.raises(TypeError, match="no digest can tell"):
        frozen([made(SOURCE.replace("x * G", "getattr(x, 'real')"))])

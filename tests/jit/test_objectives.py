"""Digests of compiled objectives: equal where the code is, and none where nobody can tell."""

from __future__ import annotations

import builtins
import functools
import math
import types
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import config

from numadam._jit import objectives
from tests.processes import python

SOURCE = '''
import math, numba, numpy as np, constants
G = 2.0
TABLE = np.array([1.0, 2.0])

@numba.njit
def deep(a, power=2):
    return a ** power + 0.5

@numba.njit
def helper(a):
    return deep(a) * math.pi

def make(scale):
    @numba.njit(fastmath=False)
    def fun(x, g):
        """Its documentation."""
        inner = lambda a, b=3.0: a * b + constants.SHIFT
        g[0] = 2 * x[0] * G + TABLE[1]
        return helper(x[0]) * scale + np.sum(x) * inner(x[1]) + constants.half(x[0])
    return fun

fun = make(1.5)
'''


@pytest.fixture(autouse=True)
def constants(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the user's."""
    module = types.ModuleType("constants")
    exec("import numba\nSHIFT = 1\n@numba.njit\ndef half(a): return a / 2", module.__dict__)
    monkeypatch.setitem(__import__("sys").modules, "constants", module)
    return module


def made(source: str = SOURCE, file: str = "<stdin>", name: str = "__main__") -> Any:
    """The objective `fun` of a text."""
    values: dict[str, Any] = {"__name__": name}
    exec(compile(source, file, "exec"), values)
    return values["fun"]


def digest(fun: Any) -> str | None:
    return objectives.snapshot(fun).digest()


def test_the_same_text_has_the_same_digest() -> None:
    """In a module, in `__main__`, or in a cell that was moved."""
    first = digest(made())
    assert first is not None
    assert digest(made("\n\n" + SOURCE, "<ipython-input-7-0a>", "elsewhere")) == first
    assert digest(made()) == first


CHANGES = [
    ("G = 2.0", "G = 2.5"),
    ("G = 2.0", "G = 2"),
    ("G = 2.0", "G = np.float32(2.0)"),
    ("np.array([1.0, 2.0])", "np.array([1.0, 2.5])"),
    ("np.array([1.0, 2.0])", "np.array([1.0, 2.0], 'f4')"),
    ("np.array([1.0, 2.0])", "np.array([[1.0, 2.0]])"),
    ("np.array([1.0, 2.0])", "(1.0, 2.0)"),
    ("power=2", "power=3"),
    ("power=2", "power=2.0"),
    ("+ 0.5", "+ -0.0"),
    ("+ 0.5", "+ 0.0"),
    ("make(1.5)", "make(1.25)"),
    ("b=3.0", "b=4.0"),
    ("2 * x[0]", "3 * x[0]"),
    ("2 * x[0]", "2.0 * x[0]"),
    ("np.sum(x)", "np.min(x)"),
    ("math.pi", "math.e"),
    ("fastmath=False", "fastmath=True"),
    ("fastmath=False", "fastmath={'nnan'}"),
    ("fastmath=False", "error_model='numpy'"),
    ("fastmath=False", "boundscheck=True"),
    ("@numba.njit\ndef deep", "@numba.njit(error_model='numpy')\ndef deep"),
    ("helper(x[0])", "deep(x[0])"),
    ("* math.pi", "* math.pi + deep(a)"),
]


def test_each_change_has_a_digest_of_its_own() -> None:
    seen = {digest(made())}
    for old, new in CHANGES:
        assert old in SOURCE, old
        found = digest(made(SOURCE.replace(old, new)))
        assert found is not None, (old, new)
        assert found not in seen, (old, new)
        seen.add(found)


def test_values_of_other_modules_and_settings_count(
    constants: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fun = made()
    first = digest(fun)
    monkeypatch.setattr(constants, "SHIFT", 2)
    assert digest(fun) not in (None, first)
    monkeypatch.setattr(constants, "SHIFT", 1)
    monkeypatch.setattr(constants, "unread", object(), raising=False)
    assert digest(fun) == first
    half = constants.half
    exec("@numba.njit\ndef half(a): return a / 3", constants.__dict__)
    assert digest(fun) not in (None, first)
    constants.half = half
    monkeypatch.setattr(config, "LOOP_VECTORIZE", 1 - config.LOOP_VECTORIZE)
    assert digest(fun) not in (None, first)
    monkeypatch.undo()


def test_values_are_those_of_now_and_stay() -> None:
    """Also where Numba has compiled the function for others, and where they change later."""
    fun = made()
    assert fun(np.ones(2), np.zeros(2)) == fun.py_func(np.ones(2), np.zeros(2))
    first = digest(fun)
    fun.py_func.__globals__["G"] = 7.0
    fun.py_func.__globals__["TABLE"][1] = 5.0
    found = objectives.snapshot(fun)
    assert found.digest() not in (None, first)
    fun.py_func.__globals__["G"] = 9.0
    fun.py_func.__globals__["TABLE"][1] = 9.0
    g = np.zeros(2)
    found.copy(np.ones(2), g)
    assert g[0] == 2 * 7.0 + 5.0


@pytest.mark.parametrize(
    ("owner", "name"), [(np, "sum"), (np.linalg, "norm"), (math, "sin"), (builtins, "abs")]
)
def test_a_replacement_is_not_known_by_the_name_that_it_took(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """`functools.wraps` copies name and module: the loop of the original would be served."""
    text = "abs" if owner is builtins else f"{owner.__name__.replace('numpy', 'np')}.{name}"
    source = f"import math, numba, numpy as np\n@numba.njit\ndef fun(x, g): return {text}(x[0])"
    assert digest(made(source)) is not None

    @functools.wraps(getattr(owner, name))
    def other(a: Any) -> Any:
        return a

    for replacement in (other, numba.njit(other), numba.vectorize(other)):
        monkeypatch.setattr(owner, name, replacement)
        assert digest(made(source)) is None


UNKNOWN = {
    "a function of ctypes": "ctypes.CDLL(None).abs",
    "a large array": "np.zeros(200_000)",
    "an array of objects": "np.array([None])",
    "an array with gaps": "np.arange(10.0)[::2]",
    "a function in Python": "lambda a: a",
    "an instance": "object()",
    "a list": "[1.0]",
    "a dictionary": "{1: 2}",
    "a class": "type('A', (), {})",
    "an enumeration": "__import__('enum').IntEnum('E', 'a b').a",
    "a ufunc of the user's": "np.frompyfunc(abs, 1, 1)",
    "a vectorised function": "numba.vectorize(lambda a: a + 1)",
    "explicit signatures": "numba.njit('float64(float64)')(lambda a: a)",
    "a callback": "numba.cfunc('float64(float64)')(lambda a: a)",
    "a function in threads": "numba.njit(parallel=True)(lambda a: a)",
    "a choice of inlining": "numba.njit(inline=lambda *_: True)(lambda a: a)",
    "a module that makes its names": "__import__('numadam')",
}


@pytest.mark.parametrize("value", UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_told_is_not_kept(value: str) -> None:
    source = "import ctypes, numba, numpy as np\nG = {}\n@numba.njit\ndef fun(x, g):\n  G; return 1"
    assert digest(made(source.format("1.0"))) is not None
    assert digest(made(source.format(value))) is None


@pytest.mark.parametrize(
    "fun",
    [
        "njit\ndef fun(x, g): return getattr(np, 'e')",
        "njit\ndef fun(x, g): return print(x[0])",
        "njit\ndef fun(x, g): return undefined",
        "njit\ndef fun(x, g): return len(x, undefined)",
        "njit('float64(float64[:], float64[:])')\ndef fun(x, g): return 1.0",
        "njit\ndef fun(x, g):\n  with numba.objmode(y='float64'):\n    y = 1.0\n  return y",
    ],
)
def test_names_signatures_and_python_that_are_not_in_the_code_are_not_kept(fun: str) -> None:
    assert digest(made(f"import numba, numpy as np\n@numba.{fun}")) is None


def test_extensions_of_what_nobody_else_uses_do_not_count() -> None:
    """Functions and types of a user's, or of SciPy: code that uses them has to name them."""
    found = python("""
        import numba
        from numba import float64, types
        from numba.extending import lower_builtin, overload, overload_attribute, overload_method
        from numadam._jit.objectives import snapshot
        class Kind(types.Type): pass
        ufunc = np.frompyfunc(abs, 1, 1)
        def own(a): return a
        @overload(own)
        def f(a): return lambda a: 7.0
        @overload_method(Kind, "sum")
        def f(a): return lambda a: 7.0
        @overload_attribute(Kind, "size")
        def f(a): return lambda a: 7.0
        @overload(ufunc)
        def f(a): return lambda a: 7.0
        @lower_builtin(len, Kind)
        def f(context, builder, signature, args): return context.get_constant(float64, 7.0)
        @numba.njit
        def plain(x, g): return x[0]
        print(snapshot(plain).digest() is not None)
        @overload_method(types.Array, "sum")  # np.mean may use it
        def f(a): return lambda a: 7.0
        print(snapshot(plain).digest() is not None)
    """)
    assert found.split() == ["True", "False"]

"""Digests of compiled objectives: equal where the code is, and none where nobody can tell.

Code that others have extended Numba for is not kept: its source has no name.
"""

from __future__ import annotations

import builtins
import dis
import functools
import math
import types
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import compiler, config

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


def test_a_division_by_zero_is_that_of_the_loop() -> None:
    """Numba gives a caller's model to those that it calls, and keeps what it compiled first.

    Called from Python, to raise an exception again, a copy would decide for loops compiled later.
    """
    source = """
import numba
@numba.njit
def inverse(a): return 1.0 / a
@numba.njit
def fun(x, g): return inverse(x[0])
"""
    found = objectives.snapshot(made(source))
    assert found.copy(np.zeros(1), np.zeros(1)) == math.inf
    found = objectives.snapshot(made(source.replace("njit", "njit(error_model='python')")))
    with pytest.raises(ZeroDivisionError):
        found.copy(np.zeros(1), np.zeros(1))


def test_functions_that_call_each_other_are_read_once() -> None:
    source = """
import numba
@numba.njit
def fun(x, g):
    return other(x[0]) + x[0]
@numba.njit
def other(a):
    return a if a < 0 else fun([a - 1.0], 0)
"""
    first = digest(made(source))
    assert first is not None
    assert digest(made(source)) == first
    assert digest(made(source.replace("a < 0", "a < 1"))) not in (None, first)


def test_modules_that_import_each_other(constants: types.ModuleType) -> None:
    constants.again = constants
    source = "import numba, constants\n@numba.njit\ndef fun(x, g): return constants.again.SHIFT"
    first = digest(made(source))
    assert first is not None
    constants.SHIFT = 2
    assert digest(made(source)) not in (None, first)


def test_modules_of_one_name_are_two() -> None:
    """Two files may be loaded under one name."""
    first, second = types.ModuleType("config"), types.ModuleType("config")
    exec("G = 1.0", first.__dict__)
    exec("G = 2.0", second.__dict__)
    source = "import numba\n@numba.njit\ndef fun(x, g): return a.G + 10 * b.G + 100 * c.G"
    functions = [made(source), made(source)]
    for fun, c in zip(functions, (first, second), strict=True):
        fun.py_func.__globals__.update(a=first, b=second, c=c)
    found = [digest(fun) for fun in functions]
    assert None not in found
    assert found[0] != found[1]


PASSED = """
import numba, constants
@numba.njit
def read(module): return module.SHIFT
@numba.njit
def same(): return constants
@numba.njit
def fun(x, g): return read(constants) + 10 * same().SHIFT + x[0]
"""


def test_a_module_may_be_given_to_another_function(constants: types.ModuleType) -> None:
    first = objectives.snapshot(made(PASSED))
    constants.SHIFT = 2
    second = objectives.snapshot(made(PASSED))
    assert len({first.digest(), second.digest(), None}) == 3
    found = [one.copy(np.zeros(1), np.zeros(1)) for one in (first, second)]
    assert found == [11.0, 22.0]


@pytest.mark.parametrize(
    ("owner", "name", "other", "kept"),
    [
        (np, "sum", np.prod, True),
        (np.linalg, "norm", np.linalg.det, True),
        (np.random, "rand", np.random.randn, True),
        (math, "sin", math.cos, True),
        (np, "flag", True, True),
        (np, "text", "abc", True),
        (np, "own", numba.njit(lambda a: a), False),
        (np, "python", made, False),
    ],
)
def test_names_of_numpy_that_others_have_replaced(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, other: Any, kept: bool
) -> None:
    source = f"""
import math, numba, numpy as np
@numba.njit
def fun(x, g): return {owner.__name__.replace("numpy", "np")}.{name}
"""
    first = digest(made(source))
    assert first is not None
    monkeypatch.setattr(owner, name, other, raising=False)
    found = digest(made(source))
    assert found != first
    assert (found is not None) == kept


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


def test_the_sign_of_nan_counts() -> None:
    """It is the only thing by which two NaNs differ in a result."""
    source = (
        "import math, numba\nG = math.copysign(math.nan, 1)\n@numba.njit\ndef fun(x, g): return G"
    )
    assert digest(made(source)) not in (None, digest(made(source.replace("1)", "-1)"))))


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


def test_every_instruction_that_reads_a_global_is_known() -> None:
    """Names that are looked up in another way would not be read."""
    names = [one for one in dis.opname if "GLOBAL" in one and one.startswith("LOAD")]
    # the last is that of class bodies and annotations, which Numba does not compile
    known = {"LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
    # those that specialise it are not in `co_code`
    assert all(one in known or one.startswith("LOAD_GLOBAL_") for one in names)


# --- extensions of Numba -------------------------------------------------------------------------


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


#: Ways to say how Numba types or compiles `np.trace`, or an addition.
WAYS = {
    "overload": "@overload(np.trace)\ndef f(a): return lambda a: 7.0",
    "type_callable": "@type_callable(np.trace)\ndef f(context): return lambda a: float64",
    "template": """
@infer_global(np.trace)
class Trace(ConcreteTemplate):
    cases = [signature(float64, float64)]
""",
    "a template that `type` makes": """
infer_global(np.trace, Function(type("T", (ConcreteTemplate,), {"key": np.trace, "cases": []})))
""",
    "lower_builtin": """
@lower_builtin(np.trace, float64)
def f(context, builder, signature, args): return args[0]
""",
    "a registry": """
registry = Registry()
@registry.lower(np.trace, float64)
def f(context, builder, signature, args): return args[0]
cpu_target.target_context.install_registry(registry)
""",
    "a cast": """
@lower_cast(float64, float32)
def f(context, builder, old, new, value): return value
""",
    "a function with an empty cell": """
def make():
    def f(a): return lambda a: 7.0 if other else 8.0
    overload(np.trace)(f)
    other = 1
    del other
make()
""",
    "a class that raises": """
class Raises(type):
    def __getattribute__(cls, name): raise RuntimeError
builtin_registry.functions.append(Raises("R", (), {}))
""",
    "a rewrite": """
@register_rewrite("before-inference")
class R(Rewrite): pass
""",
    "an attribute": """
@lower_getattr(Array, "trace")
def f(context, builder, kind, value): return value
""",
}
IMPORTS = """
import numpy as np
from numba import float32, float64
from numba.core.imputils import Registry
from numba.core.registry import cpu_target
from numba.core.rewrites import Rewrite, register_rewrite
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, builtin_registry, infer_global
from numba.extending import *
from numba.extending import lower_builtin, lower_cast, lower_getattr, overload, type_callable
from numba.types import Array, Function
"""


def test_every_way_is_seen_whatever_its_module_is_called() -> None:
    """The name is that of Numba's, of a user's, or none: what `exec` runs may have any."""
    python(f"""
        import gc, numba
        from numba.core.registry import cpu_target
        from numba.core.rewrites import rewrite_registry
        from numadam._jit.objectives import snapshot
        @numba.njit
        def traces(x, g): return np.trace(x)
        assert snapshot(traces).digest() is not None
        for way, code in {WAYS!r}.items():
            for names in ({{}}, {{"__name__": "user"}}, {{"__name__": "numba.user"}}):
                registries = [x for x in gc.get_objects() if type(x).__name__ == "Registry"]
                values = [x for registry in registries for x in vars(registry).values()]
                lists = [x for x in values if type(x) is list]
                lists += rewrite_registry.rewrites.values()
                sizes = [(x, len(x)) for x in lists]
                exec({IMPORTS!r} + code, names)
                assert snapshot(traces).digest() is None, way
                for x, size in sizes:
                    del x[size:]
                for registry in list(cpu_target.target_context._registries):
                    if registry not in registries:
                        del cpu_target.target_context._registries[registry]
                assert snapshot(traces).digest() is not None, way
    """)


@pytest.mark.parametrize("kind", ["DefaultPassBuilder", "CompilerBase", "Compiler"])
@pytest.mark.parametrize("way", ["a function", "another callable", "a class"])
def test_a_compiler_that_others_have_changed_is_noticed(
    monkeypatch: pytest.MonkeyPatch, kind: str, way: str
) -> None:
    """In a running program too: the function may have been compiled before."""
    fun, original = made(), getattr(compiler, kind)
    first = digest(fun)
    assert first is not None
    name = "define_nopython_pipeline" if kind == "DefaultPassBuilder" else "define_pipelines"

    def changed(*args: Any) -> Any:
        return getattr(original, name)(*args)

    if way == "a class":
        monkeypatch.setattr(compiler, kind, type(kind, (original,), {name: changed}))
    else:
        put = changed if way == "a function" else functools.partial(changed)
        monkeypatch.setattr(original, name, put)
    assert digest(fun) is None
    monkeypatch.undo()
    assert digest(fun) == first


def test_nothing_of_numba_itself_counts() -> None:
    """Modules that are imported late, and what Numba makes for functions and classes of users."""
    text = python("""
        import numba, numba.typed, numba.np.unsafe.ndarray
        from numba.experimental import jitclass, structref
        from numba.core.registry import cpu_target
        from numadam._jit.objectives import is_extended
        cpu_target.typing_context.refresh(); cpu_target.target_context.refresh()

        @structref.register
        class Struct(numba.types.StructRef): pass
        class Proxy(structref.StructRefProxy):
            def __new__(cls, a): return structref.StructRefProxy.__new__(cls, a)
        structref.define_proxy(Proxy, Struct, ["a"])

        @jitclass([("a", numba.float64)])
        class Class:
            def __init__(self, a): self.a = a
        Class(1.0)
        assert numba.vectorize(lambda a: a + 1)(3.0) == 4.0
        print(is_extended())
    """)
    assert text == "False"

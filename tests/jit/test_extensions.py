"""Code that others have extended Numba for is not kept: its source has no name."""

import pytest

from tests.processes import python


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
        print(snapshot(plain) is not None)
        @overload_method(types.Array, "sum")  # np.mean may use it
        def f(a): return lambda a: 7.0
        print(snapshot(plain) is not None)
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


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_is_seen_whatever_its_module_is_called(way: str) -> None:
    """The name is that of Numba's, of a user's, or none: what `exec` runs may have any."""
    found = python(f"""
        import gc, numba
        from numba.core.rewrites import rewrite_registry
        from numadam._jit.objectives import snapshot
        @numba.njit
        def traces(x, g): return np.trace(x)
        assert snapshot(traces) is not None
        code = {IMPORTS + way!r}
        for names in ({{}}, {{"__name__": "user"}}, {{"__name__": "numba.user"}}):
            registries = [one for one in gc.get_objects() if type(one).__name__ == "Registry"]
            lists = [x for one in registries for x in vars(one).values() if type(x) is list]
            lists += rewrite_registry.rewrites.values()
            sizes = [(x, len(x)) for x in lists]
            exec(code, names)
            print(int(snapshot(traces) is not None))
            for values, size in sizes:
                del values[size:]
            from numba.core.registry import cpu_target
            for registry in list(cpu_target.target_context._registries):
                if registry not in registries:
                    del cpu_target.target_context._registries[registry]
            assert snapshot(traces) is not None
    """)
    assert found.split() == ["0", "0", "0"]


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

"""Code that others have extended Numba for is not kept: its source has no name."""

import pytest

from tests.processes import python


def test_extensions_of_numba_are_not_kept() -> None:
    """Another source says how the function is compiled: one of NumPy, a method, an operator."""
    found = python("""
        import operator, numba
        from numba import types
        from numba.extending import overload, overload_method, register_jitable
        from numadam._jit.objectives import snapshot

        @numba.njit
        def traces(x, g): return np.trace(x)
        @numba.njit
        def sums(x, g): return x.sum()
        @numba.njit
        def plain(x, g): return x[0]

        def kept():
            print(*(int(snapshot(one) is not None) for one in (traces, sums, plain)))

        @register_jitable
        def own(a): return a
        kept()
        @overload(np.trace)
        def trace(a): return lambda a: 7.0
        kept()
        @overload_method(types.Array, "sum")
        def sum(a): return lambda a: 7.0
        kept()
        @overload(operator.add)
        def add(a, b): return None
        kept()
    """)
    assert found.split("\n") == ["1 1 1", "0 1 1", "0 0 1", "0 0 0"]


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
from numba.core.typing import signature
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import *
from numba.extending import lower_builtin, lower_cast, lower_getattr, overload, type_callable
from numba.types import Array, Function
"""


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_is_seen_whatever_its_module_is_called(way: str) -> None:
    """The name is that of Numba's, of a user's, or none: what `exec` runs may have any."""
    found = python(f"""
        import gc, numba
        from numadam._jit import extensions
        from numadam._jit.objectives import snapshot
        @numba.njit
        def traces(x, g): return np.trace(x)
        assert snapshot(traces) is not None
        code = {IMPORTS + way!r}
        for names in ({{}}, {{"__name__": "user"}}, {{"__name__": "numba.user"}}):
            registries = [one for one in gc.get_objects() if type(one).__name__ == "Registry"]
            lists = [x for one in registries for x in vars(one).values() if type(x) is list]
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
        from numadam._jit.extensions import extended_names
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
        print(sorted(extended_names()))
    """)
    assert text == "[]"

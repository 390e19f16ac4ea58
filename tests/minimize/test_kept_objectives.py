"""Compiled objectives on the disk: a second process loads them, and never a stale or broken one."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numba
import numpy as np
import pytest

import numadam as na
from numadam._jit import cache, objectives, reports
from numadam._minimize.compiled import objective
from numadam._minimize.compiled.objective import WRITES
from numadam._minimize.lanes import objective as lanes_objective
from tests.processes import ROOT

PAIRS = """
import numba
from numba.core import event
from numadam._minimize.compiled import objective

compiled = []
class Compiles(event.Listener):
    def on_start(self, found):
        compiled.append(found.data["dispatcher"].py_func.__name__)
    def on_end(self, found):
        pass
event.register("numba:compile", Compiles())

@numba.njit
def square(a):
    return a * a

def make(scale):
    @numba.njit
    def fun(x):
        return scale * square(x[0] - 3.0), x - 3.0
    return fun

# the keys of Python's hashes are variables of a module that only the compiler loads
@numba.njit
def fun(x):
    return {'a': square(x[0] - 3.0)}['a'], x - 3.0

def found(fun):
    compiled.clear()
    objective.adapter_for(fun, objective.RETURNS, np.dtype(float), 1, ())
    return "fun" in compiled, len(compiled)

def minimum(scale):
    compiled.clear()
    return na.minimize(make(scale), np.zeros(1), jac=True, lr=0.1, maxiter=50).fun, len(compiled)
"""


def processes(folder, calls, count=1, **environment):
    """What calls give in new processes that keep their loops in this folder, all at once."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder), **environment}
    text = f"import numpy as np, numadam as na\n{PAIRS}\nprint([{calls}])"
    jobs = [
        subprocess.Popen([sys.executable, "-c", text], env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    outs = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * count
    return [ast.literal_eval(out) for out in outs]


def test_a_second_process_compiles_nothing(tmp_path):
    """After two that compiled one objective at once; another value or processor is another code."""
    processes(tmp_path, "found(make(0.5))", count=2)
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(entries(tmp_path)) == 1
    calls = "found(make(0.5))[0], found(make(0.25))[0], found(fun)[0], minimum(0.5)"
    (first,) = processes(tmp_path, calls)
    assert first[:3] == [False, True, True]
    (other,) = processes(tmp_path, "found(make(0.5))[0]", NUMBA_CPU_NAME="generic")
    assert other == [True]
    calls = "minimum(0.5), found(make(0.5)), found(make(0.25)), found(fun)"
    (again,) = processes(tmp_path, calls)
    assert again == [(first[3][0], 0), *[(False, 0)] * 3]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which objectives are kept; loops are read from the others, too."""
    others = cache.folders()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "folders", lambda: [tmp_path, *others])
        patch.setattr(cache, "directory", lambda: tmp_path)
        yield tmp_path
    forget()


def forget():
    """As in a new process."""
    objective._adapter.cache_clear()
    lanes_objective._lane_adapter.cache_clear()


def entries(folder):
    return sorted(folder.rglob("objective-*.loop"))


def adapter(fun):
    return objective.adapter_for(fun, WRITES, np.dtype(float), 1, ())


def loaded(found):
    return bool(found._evaluate._cache.hit)


def minimum(fun, start=(0.0, 0.0), **options):
    found = na.minimize(fun, np.array(start), lr=0.1, maxiter=20, **options)
    return list(found.x)


def bowl(center):
    @numba.njit
    def fun(x, g):
        for i in range(x.size):
            g[i] = x[i] - center
        return 0.5 * np.sum((x - center) ** 2)

    return fun


def test_a_damaged_entry_is_compiled_again(folder):
    right = minimum(bowl(2.0))
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    garbage = b"cno_such_module\nX\n."
    damages = [whole[:31], whole[:-1], whole[:99] + b"x" + whole[100:]]
    damages.append(cache.signed(entry.name, garbage))
    for damaged in damages:
        entry.write_bytes(damaged)
        forget()
        assert not loaded(adapter(bowl(2.0)))
        assert minimum(bowl(2.0)) == right
        forget()
        assert loaded(adapter(bowl(2.0)))
        assert minimum(bowl(2.0)) == right


def test_a_full_disk_and_an_interrupt_are_not_remembered(folder, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reports, "_warned", False)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(na.CacheWarning, match="No space left"):
        right = minimum(bowl(3.0))
    monkeypatch.undo()
    assert not list(folder.rglob("*.*"))
    forget()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(objectives._PortableLibrary, "_optimize_final_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        minimum(bowl(3.0))
    monkeypatch.undo()
    assert not entries(folder)
    forget()
    assert minimum(bowl(3.0)) == right
    assert entries(folder)


def test_functions_of_two_processes_with_one_name_are_not_mixed_up(folder):
    text = """
@numba.njit
def step(a, n):
    for k in range(n):
        a = np.sqrt(a * a + VALUE) if a > 0.5 else np.cos(a) * np.exp(a) + VALUE
    return a

@numba.njit
def fun(x, g):
    g[0] = x[0]
    f = 0.0
    for n in range(3):
        f += step(x[0], n) + step(x[0] + f, 2 * n) * step(f, n) + step(f - x[0], n + 1)
    return f
"""

    def made(value):
        values = {"numba": numba, "np": np, "__name__": "m", "VALUE": value}
        exec(text, values)
        return values["fun"]

    right = {}
    for value in (0.25, 0.75):
        fun = made(value)
        right[value] = na.minimize(fun, np.ones(1), maxiter=0).fun
        forget()
    assert right[0.25] != right[0.75]
    for value in (0.75, 0.25):
        fun = made(value)
        assert loaded(adapter(fun))
        assert na.minimize(fun, np.ones(1), maxiter=0).fun == right[value]
        assert fun(np.ones(1), np.zeros(1)) == right[value]


def test_exceptions_come_from_the_disk(folder):
    """Numbers in an exception, and NumPy's words on shapes, come through an object of a process."""

    @numba.njit
    def words(x, g, end):
        if x[0] > end:
            raise ValueError("beyond the end")
        g[0] = -1.0
        return -x[0]

    @numba.njit
    def values(x, g, end):
        if x[0] > end:
            raise ValueError(x[0])
        g[0] = -1.0
        return -x[0]

    @numba.njit
    def shapes(x, g, other):
        g[:] = x + other
        return 1.0

    for fun, x0, arg, says in (
        (words, np.zeros(1), 0.5, "beyond the end"),
        (values, np.zeros(1), 0.5, r"0\.59"),
        (shapes, np.zeros(3), np.zeros(2), "broadcast"),
    ):
        before = len(entries(folder))
        for _ in range(2):
            with pytest.raises(ValueError, match=says) as caught:
                na.minimize(fun, x0, (arg,), lr=0.1, maxiter=20)
            forget()
        assert caught.value.numadam_result.nit == (0 if fun is shapes else 6)
        assert len(entries(folder)) == before + 1


# --- one copy for all that is compiled of an objective -------------------------------------------


INVERSE = """
import numba, numpy as np, lazy
LARGE = np.zeros(200_000)

@numba.njit
def inverse(a):
    return 1.0 / a

def outer():
    calls = np.zeros(1)

    @numba.njit(OPTIONS)
    def fun(x, g):
        g[0] = 1.0
        LINE
        return inverse(x[0])

    return fun, calls

fun, calls = outer()
"""

#: Lines with which nobody can tell what an objective depends on, but for the first.
LINES = {
    "kept": "g[0] = 2.0",
    "a large array": "g[0] = LARGE[3]",
    "a module that makes its names": "g[0] = lazy.made + lazy.inverse(x[0])",
    "a block that Python runs": "with numba.objmode(): calls[0] += 1",
}


def inverses(line, options=""):
    """The names of a module with such an objective, and its helper."""
    made = types.SimpleNamespace(made=1.0)
    lazy = types.ModuleType("lazy")
    lazy.__getattr__ = lambda name: getattr(made, name)
    values = {"__name__": "inverses"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "lazy", lazy)
        exec(INVERSE.replace("LINE", line).replace("OPTIONS", options), values)
    lazy.inverse = values["inverse"]
    return values


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_division_by_zero_does_not_depend_on_what_was_compiled(folder, line):
    """Called from Python, a helper raises; Numba would give what it compiled so to the loop."""
    for called in ((), ("inverse",), ("inverse", "fun")):
        values = inverses(line)
        if called:
            assert values["inverse"](2.0) == 0.5
        if "fun" in called:
            assert values["fun"](np.array([2.0]), np.zeros(1)) == 0.5
        values["calls"][:] = 0.0
        found = na.minimize(values["fun"], np.zeros(1), lr=0.1, maxiter=0)
        assert found.fun == math.inf, called
        assert values["calls"][0] == ("calls" in line)
    raises = inverses(line, "error_model='python'")["fun"]
    with pytest.raises(ZeroDivisionError):
        na.minimize(raises, np.zeros(1), lr=0.1, maxiter=0)
    assert bool(entries(folder)) == (line == LINES["kept"])


@pytest.mark.parametrize("line", ["g[0] = G", "g[0] = G + LARGE[3]"])
def test_an_objective_keeps_the_values_of_its_first_call(folder, line):
    """However many other adapters were made since, and for other types."""
    values = {"__name__": "first", "numba": numba, "LARGE": np.zeros(200_000), "G": 1.0}
    exec(f"@numba.njit\ndef fun(x, g):\n {line}\n return G", values)
    fun, direct = values["fun"], numba.njit(values["fun"].py_func)
    assert na.minimize(fun, np.zeros(2), maxiter=0).fun == direct(np.zeros(2), np.zeros(2)) == 1.0
    values["G"] = 2.0
    forget()
    assert na.minimize(fun, np.zeros(2), maxiter=0).fun == direct(np.zeros(2), np.zeros(2)) == 1.0
    assert na.minimize(fun, np.zeros(2, "f4"), maxiter=0).fun == 1.0
    many = na.minimize_many(fun, np.zeros((30, 2)), maxiter=0)
    np.testing.assert_array_equal(many.fun, 1.0)


def test_functions_in_args_divide_as_the_objective_does(folder):
    """Called from Python before or not, and in the call that raises an exception again."""

    @numba.njit
    def fun(x, g, shift, inverse, others):
        g[0] = 1.0
        f = inverse(x[0]) + others[1](x[0]) + shift
        if x[0] < 0:
            raise ValueError("below 0")
        return f

    def both():
        inverse, other = numba.njit(lambda a: 1.0 / a), numba.njit(lambda a: 2.0 / (a + 1.0))
        return 0.0, inverse, (1.0, other)

    for called in (False, True):
        for start in (0.0, -1.0):
            args = both()
            if called:
                assert args[1](2.0) + args[2][1](1.0) == 1.5
            if start == 0.0:
                assert na.minimize(fun, np.array([start]), args, maxiter=0).fun == math.inf
            else:
                with pytest.raises(ValueError, match="below 0"):
                    na.minimize(fun, np.array([start]), args, maxiter=0)
    assert not entries(folder)


LACKING = """
@numba.njit
def fun(x, g):
    g[0] = 1.0
    return later + x[0]

@numba.njit
def inner(x):
    return later + x

@numba.njit
def calls(x, g, shift, inner):
    g[0] = 1.0
    return inner(x[0]) + shift
"""


@pytest.mark.parametrize("in_args", [False, True])
def test_what_did_not_compile_may_get_what_it_lacks(folder, in_args):
    values = {"__name__": "lacks", "numba": numba}
    exec(LACKING, values)
    fun, args = (values["calls"], (0.0, values["inner"])) if in_args else (values["fun"], ())
    for wrong in ({}, {"later": "a text"}):
        values.update(wrong)
        with pytest.raises(TypeError, match="does not compile"):
            na.minimize(fun, np.zeros(1), args, maxiter=0)
    for later, dtype in ((2.0, "f8"), (3.0, "f4")):  # the values of the first call stay
        values["later"] = later
        assert na.minimize(fun, np.zeros(1, dtype), args, maxiter=0).fun == 2.0


def test_defaults_are_those_of_the_decoration(folder):
    """As Numba takes them, whatever was put there since."""

    @numba.njit
    def power(a, by=2.0):
        return a**by

    @numba.njit
    def fun(x, g, shift=1.0):
        g[0] = 1.0
        return power(x[0]) + shift

    for shift, by in (((8.0,), (3.0,)), (None, None), ((1, 2, 3), (1, 2))):
        fun.py_func.__defaults__, power.py_func.__defaults__ = shift, by
        forget()
        found = na.minimize(fun, np.full(1, 4.0), maxiter=0)
        assert found.fun == fun(np.full(1, 4.0), np.zeros(1)) == 17.0

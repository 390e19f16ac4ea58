"""Rounding and flush-to-zero that another library has left on change no bit, and stay."""

import ast
import platform
from textwrap import dedent

import pytest

from tests.processes import python

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"),
    reason="the mode of other processors is left alone",
)
IMPORT = "\nfrom tests.faults.float_mode_runs import *"


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """Digests in a process where nobody has changed the mode."""
    found: dict[str, str] = ast.literal_eval(python(IMPORT + "\nprint(digests('default'))"))
    return found


def test_no_mode_changes_a_bit(expected: dict[str, str]) -> None:
    """Of any form of our compiled code."""
    found = python(IMPORT + "\nprint(list(map(digests, MODES)))")
    assert ast.literal_eval(found) == [expected] * 4


@pytest.mark.parametrize("layer", ["omp", "workqueue", "default"])
def test_threads_that_were_started_in_another_mode(layer: str, expected: dict[str, str]) -> None:
    """Worker threads inherit the mode of the thread that starts them."""
    code = "\nprint([digests(name, THREADED) for name in ('flush', 'default', 'down')])"
    # NumPy 2.0 says so itself where it is imported in such a mode
    quiet = "error,ignore:The value of the smallest subnormal:UserWarning"
    layers = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    found = python(IMPORT + code, PYTHONWARNINGS=quiet, **layers)
    for one in ast.literal_eval(found):
        assert one == {name: expected[name] for name in one}


def test_the_caller_keeps_its_mode() -> None:
    """Where a step is refused, and where numadam calls a `fun` in Python."""
    code = """
    opt = na.Adam(START[:9].copy(), clip_norm=1.0, nonfinite="raise")
    for bad in (np.ones(8, "f4"), np.full(9, np.nan, "f4")):
        with in_mode("flush"):
            try:
                opt.step(bad)
            except (ValueError, FloatingPointError) as error:
                print(type(error).__name__)
    seen = set()
    def fun(x):
        seen.add(mode())
        return float(x @ x), 2 * x
    with in_mode("down"):
        na.minimize(fun, np.ones(2), jac=True, maxiter=5)
    print(*seen)
    """
    wanted = ["ValueError", "FloatingPointError", "down"]
    assert python(IMPORT + dedent(code)).split() == wanted

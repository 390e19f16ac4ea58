"""The same bits on every processor, system and Python: recorded ones, and those of other settings.

`.ci/run pythons` compares the recorded bits on each Python.
"""

from __future__ import annotations

import ast
import itertools
import json
from pathlib import Path

import pytest

import numadam as na
from tests.faults import platform_bits as runs
from tests.processes import PREAMBLE, python
from tests.variants import VARIANTS

RECORDED: dict[str, str] = json.loads(runs.RECORDED.read_text())
IMPORT = "\nfrom tests.faults.platform_bits import *\nimport numba.core.registry as registry"
#: Functions that a system's library has and IEEE 754 does not define to the last bit.
LIBM = rb"[\0_](pow|exp|exp2|exp10|expm1|log|log2|log10|log1p|sin|cos|tan|tanh|cbrt|hypot)f?\0"
#: A processor without AVX and FMA; code for a debugger, for which Numba warns of what it lacks.
OTHERS = {
    "generic": {"NUMBA_CPU_NAME": "generic"},
    "debug": {"NUMBA_OPT": "0", "NUMBA_DEBUGINFO": "1", "PYTHONWARNINGS": "ignore"},
}
#: few cases, for these processes compile all anew
FEW = {
    "generic": ["Adam float32 clip_norm", "minimize", "least_squares_many"],
    "debug": ["Adam float32"],
}


#: One dtype of each rule is usual, and both of Adam.
DTYPES = dict(zip(VARIANTS, itertools.cycle(("float32", "float64")), strict=False))
RARE = runs.RULES.keys() - {f"{name} {dtype}" for name, dtype in DTYPES.items()}
RARE -= {"Adam float32", "Adam float64"}
SWEPT = [pytest.param(case, marks=pytest.mark.sweep if case in RARE else ()) for case in RECORDED]


@pytest.mark.rule
def test_all_cases_are_recorded() -> None:
    assert list(RECORDED) == [*runs.CASES, *runs.RUNS]


@pytest.mark.rule
@pytest.mark.parametrize("case", SWEPT)
def test_recorded_bits(case: str) -> None:
    assert runs.digest_of(case) == RECORDED[case]


@pytest.mark.parametrize("other", OTHERS)
def test_other_code_has_the_same_bits(other: str, tmp_path: Path) -> None:
    """Also where one process saves a run and the other goes on, in both directions."""
    half, case = runs.STEPS // 2, FEW[other][0]
    runs.advance(case, runs.optimizer(case), 0, half).save(tmp_path / "here")
    code = f"""
folder, half, case = Path({str(tmp_path)!r}), {half}, {case!r}
advance(case, optimizer(case), 0, half).save(folder / "there")
print(registry.cpu_target.target_context.codegen().magic_tuple())
print(digest(advance(case, na.load(folder / "here"), half, STEPS)))
print(digests({FEW[other]}))
"""
    machine, resumed, found = python(
        IMPORT + code, NUMBA_CACHE_DIR=str(tmp_path / "cache"), **OTHERS[other]
    ).splitlines()
    if other == "generic":
        assert "generic" in machine
        assert "avx" not in machine
    assert ast.literal_eval(found) == {name: RECORDED[name] for name in FEW[other]}
    assert resumed == RECORDED[case]
    there = runs.advance(case, na.load(tmp_path / "there"), half, runs.STEPS)
    assert runs.digest(there) == RECORDED[case]


def test_without_libgomp_and_tbb_the_bits_are_the_same() -> None:
    """Numba's own threads are left, and numadam uses none of them."""
    code = """
    import sys
    # Numba takes a layer that cannot be imported for one whose library is missing
    sys.modules["numba.np.ufunc.omppool"] = sys.modules["numba.np.ufunc.tbbpool"] = None
    found = digest()
    from numadam._jit import process
    print(found, process.layer())
    """
    scope: dict = {}
    exec(PREAMBLE, scope)
    assert python(code).split() == [scope["digest"](), "workqueue"]

"""Every kernel compiles by numba-cuda and by its successor, for GPUs of four generations."""

from __future__ import annotations

import pytest

from tests.cuda import second_compiler
from tests.cuda.cuda_cases import OPTIONS, RULES, Case, plan_of
from tests.cuda.kernel_code import Code, check_arithmetic, step_of
from tests.variants import compile_nothing

pytestmark = pytest.mark.cuda

GENERATIONS = [(7, 5), (8, 0), (9, 0), (12, 0)]
#: By name a kernel of a plan.
KERNELS = {
    "step": lambda k, n, plan: k.make_step(plan, True, False, False),
    "step over many arrays": lambda k, n, plan: k.make_step(plan, False, True, False),
    "step with out": lambda k, n, plan: k.make_step(plan, True, False, True),
    "rows of a sparse gradient": lambda k, n, plan: k.make_lazy(plan, not plan.by_row),
    "rows that count": lambda k, n, plan: k.make_rows(plan),
    "sums": lambda k, n, plan: n.make_sums(plan, True, True),
    "norms": lambda k, n, plan: n.make_norms(plan),
}
#: Plans of theirs.
PLANS = {
    "rows that count": Case("Adam", {"sparse": "lazy", "count": "row"}),
    "sums": OPTIONS["bounds of each"],
    "norms": OPTIONS["bounds of each"],
    "rows of a sparse gradient": Case("Adam", {"sparse": "lazy"}),
}
#: What the second compiler cannot yet, and its error.
CANNOT = {"rows that count": "returns 10"}  # no named tuple comes back from a function
COMPILERS = {"numba-cuda": None, "numba-cuda-mlir": second_compiler.ptx_of}


@pytest.fixture(autouse=True)
def _no_back_end(monkeypatch):
    compile_nothing(monkeypatch)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_compiles_for_every_generation(name, compiler, monkeypatch):
    from numadam._cuda import kernel, norms

    made = KERNELS[name](kernel, norms, plan_of(PLANS.get(name, OPTIONS["l2"])))
    if compiler == "numba-cuda-mlir" and name in CANNOT:
        monkeypatch.setenv("NUMBA_CUDA_MLIR_ICE_FULL_TB", "1")
        with pytest.raises(Exception, match=CANNOT[name]):
            Code.of(made, (9, 0), COMPILERS[compiler])
        return
    for generation in GENERATIONS:
        code = Code.of(made, generation, COMPILERS[compiler])
        assert ".local" not in code.text
        assert code.assembled()[1:] == (0, 0)


@pytest.mark.parametrize("case", RULES, ids=str)
def test_every_rule_compiles_by_the_second_compiler(case):
    code = Code.of(step_of(plan_of(case)), ptx_of=second_compiler.ptx_of)
    check_arithmetic(code.text)
    assert ".f64" not in code.text
    code.check_registers()

"""Public codes on numadam: the programs of the page on drop-ins, and the tests of those codes.

What is not installed is skipped: ``bash .ci/run dropins`` installs and runs all.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from numadam._version import install_command
from tests import extras
from tests.pages import DROP_IN_NEEDS, DROP_INS, drop_in, lacking, run_drop_in

#: Programs whose own Adam is replaced, and the largest difference from the package's own result.
REPLACED = {
    "scikit-learn": 0.0,
    # with lr = 1 a last digit of float32 scalars grows to 3e-3 in 10 iterations
    "PaCMAP": 1e-4,
    "pyribs": 0.0,
    "quimb": 1e-12,
    "ODL": 1e-12,
    "PyVBMC": 0.0,
    "PennyLane": 0.0,
}
#: Programs that call `scipy_adam`, and the largest difference from another method's minimum.
CALLERS = {"basinhopping": 1e-5, "lmfit": 1e-5, "iminuit": 1e-4}

pytestmark = pytest.mark.dropins()


def names_of(title):
    """Run a program of the page; skip where its package is missing."""
    if lacking(module := DROP_IN_NEEDS[title]):
        extras.stop("dropins", f"{module} is not installed: {install_command('dropins')}")
    return run_drop_in(title)


@pytest.mark.parametrize(("title", "within"), (REPLACED | CALLERS).items())
def test_the_result_is_the_packages_own(title, within, capsys):
    assert names_of(title)["difference"] <= within


def test_the_table_has_every_replaced_adam():
    text = DROP_INS.with_name("drop-ins.md").read_text(encoding="utf-8")
    rows = text.partition("| package |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [row.split("]")[0].removeprefix("| [") for row in rows] == list(REPLACED)
    shown = re.findall(r"^```{literalinclude} drop_ins/(\w+\.py)$", text, re.MULTILINE)
    assert sorted(shown) == sorted(path.name for path in DROP_INS.glob("*.py"))
    assert {drop_in(title).name for title in DROP_IN_NEEDS} == set(shown)


def test_scikit_learns_own_tests(monkeypatch, capsys):
    from sklearn.neural_network.tests import test_stochastic_optimizers as module

    monkeypatch.setattr(module, "AdamOptimizer", names_of("scikit-learn")["AdamOptimizer"])
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 6
    for test in tests:
        test()


def test_pennylanes_own_tests(monkeypatch, capsys):
    names = names_of("PennyLane")
    path = Path(names["qml"].__file__).parents[1] / "tests" / "optimize" / "test_adam.py"
    if not path.exists():
        extras.stop("dropins", "this release of PennyLane comes without its tests")
    spec = importlib.util.spec_from_file_location("pennylane_test_adam", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "AdamOptimizer", names["AdamOptimizer"])
    cases, tol = module.TestAdamOptimizer(), 1e-3
    (table,) = cases.test_apply_grad.pytestmark
    for grad, args in table.args[1]:
        cases.test_apply_grad(grad, args, tol)
    (table,) = cases.test_adam_optimizer_univar.pytestmark
    for x_start in table.args[1]:
        cases.test_adam_optimizer_univar(x_start, tol)
    cases.test_adam_optimizer_multivar(tol)
    cases.test_adam_optimizer_properties()


@pytest.mark.parametrize(
    "name", ["l2_squared", "l2_squared_scaled", "rosenbrock", "quadratic_form"]
)
def test_odls_own_tests(name, monkeypatch, capsys):
    names = names_of("ODL")
    from odl.test.solvers.smooth import smooth_test

    functional = smooth_test.functional.__wrapped__(SimpleNamespace(param=name))
    theirs, ours = functional.domain.one(), functional.domain.one()
    names["odl"].solvers.adam(functional, theirs, maxiter=100, learning_rate=0.5)
    names["adam"](functional, ours, maxiter=100, learning_rate=0.5)
    np.testing.assert_array_equal(ours.data, theirs.data, strict=True)
    monkeypatch.setattr(names["odl"].solvers, "adam", names["adam"])
    smooth_test.test_adam(functional)


def test_pyribs_resets_as_its_evolution_strategy_does(monkeypatch, capsys):
    """OpenAI-ES makes its Adam with a number of elements, and resets it to x0."""
    names = names_of("pyribs")
    from ribs.emitters.opt import _openai_es

    def means():
        strategy = _openai_es.OpenAIEvolutionStrategy(
            sigma0=0.1, solution_dim=10, batch_size=20, seed=1, lr=0.05, l2_coeff=0.01
        )
        strategy.reset(np.full(10, 0.1))
        for _ in range(30):
            x = strategy.ask()
            f = -np.sum(x**2, axis=1)
            strategy.tell(np.argsort(-f), f[:, None], 10)
        return strategy.adam_opt.theta.copy()

    theirs = means()
    monkeypatch.setattr(_openai_es, "AdamOpt", names["AdamOpt"])
    ours = means()
    assert np.max(np.abs(ours - 0.1)) > 0.01
    np.testing.assert_array_equal(ours, theirs, strict=True)

"""The scripts of docs/gallery: what the docs build, which runs them, does not see."""

import ast
import sys
import types
from pathlib import Path

import numpy as np
import pytest

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("*/plot_*.py"))
sys.path.append(str(GALLERY.parent / "_ext"))
from form import wide_lines  # noqa: E402  (in _ext)

NETWORK = {"urllib", "requests", "http", "ftplib", "socket", "pooch", "aiohttp", "httpx"}
#: Pictures and plots: no formula needs them, and not every place of the tests has them.
PICTURES = {"matplotlib", "skimage"}


def modules(tree):
    """Top-level names of what a script imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def formulas(name):
    """The definitions and CONSTANTS of a script as a dict: nothing else of it runs or compiles."""
    (program,) = GALLERY.glob(f"*/plot_{name}.py")
    tree = ast.parse(program.read_text(encoding="utf-8"))
    kept = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
            kept.append(node)
        elif isinstance(node, ast.ClassDef):
            kept.append(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            kept += [node] * (not PICTURES & set(modules(node)))
        elif isinstance(node, ast.Assign):
            kept += [node] * all(ast.unparse(target).isupper() for target in node.targets)
    tree.body = kept
    names = {"__name__": f"plot_{name}"}
    exec(compile(tree, name, "exec"), names)
    return names


def differences(f, x, step=1e-5):
    """Central differences of f by every element of a real x."""
    moves = step * np.eye(x.size).reshape(-1, *x.shape)
    return np.reshape([(f(x + h) - f(x - h)) / (2 * step) for h in moves], x.shape)


def check(fun, x, rtol=1e-6, atol=1e-8):
    """The gradient of ``f, g = fun(x)``, against differences."""
    numbers = differences(lambda x: fun(x)[0], x)
    np.testing.assert_allclose(fun(x)[1], numbers, rtol=rtol, atol=atol)


def check_in_place(fun, x, *args):
    """The gradient that ``fun(x, g, *args)`` adds to g, against differences."""
    g = np.full(x.shape, 0.5)
    fun(x, g, *args)
    numbers = differences(lambda x: fun(x, np.zeros(x.shape), *args), x)
    np.testing.assert_allclose(g - 0.5, numbers, rtol=1e-6, atol=1e-8 * abs(numbers).max())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_a_page_and_takes_nothing_from_the_network(script):
    tree = ast.parse(script.read_text(encoding="utf-8"))
    title, idea, caption = ast.get_docstring(tree).split("\n\n")
    assert title.split("\n")[1] == "=" * len(title.split("\n")[0])
    assert idea.endswith(".")
    assert caption.endswith(".")
    assert not NETWORK & set(modules(tree))


@pytest.mark.parametrize("script", sorted(GALLERY.glob("*/*.py")), ids=lambda script: script.stem)
def test_no_line_is_cut_off(script):
    assert wide_lines(script.read_text(encoding="utf-8")) == []


def test_valley_gradient():
    check(formulas("valley")["rosenbrock"], np.array([-1.2, 0.7]), rtol=1e-7, atol=0)


def test_quadratic_gradients_and_minimum():
    names = formulas("quadratic")
    loss, w, b = names["loss"], np.array([0.3, -1.0, 2.0]), np.array(0.5)
    found = names["gradients"](w, b)
    np.testing.assert_allclose(found["W"], differences(lambda w: loss(w, b), w), rtol=1e-7)
    np.testing.assert_allclose(found["b"], differences(lambda b: loss(w, b), b), rtol=1e-7)
    params, losses = names["train"](like="tf1")
    assert len(losses) == 1001
    assert losses[-1] < 1e-12 < 1 < losses[0]
    np.testing.assert_allclose(2 * params["W"] + params["b"], 4, atol=1e-6)


def test_back_propagation_through_time_is_the_gradient():
    names = formulas("lstm")
    rng = np.random.default_rng(0)
    params = names["init"](rng, 3, scale=2.0, dtype="f8")
    x, target = rng.standard_normal((2, 6, 2))

    def loss(params):
        return 0.5 * np.sum((names["forward"](params, x).outputs - target) ** 2)

    grads = {key: np.empty_like(value) for key, value in params.items()}
    trace = names["forward"](params, x)
    names["backward"](params, trace, trace.outputs - target, grads)
    for key, value in params.items():
        numeric = differences(lambda v, key=key: loss({**params, key: v}), value)
        np.testing.assert_allclose(grads[key], numeric, rtol=1e-6, atol=1e-8)


def test_thin_film_gradient():
    names = formulas("thin_film")
    f, index = names["reflectance"], names["INDEX"]
    d = np.random.default_rng(0).uniform(20, 200, index.size)
    check_in_place(f, d, np.array([420.0, 560.0, 640.0]), index)


def test_ode_gradient():
    names = formulas("ode_fit")
    x = names["GUESS"]
    check_in_place(names["misfit"], x, names["LOGS"][:3])


def test_tomography_gradient():
    names = formulas("tomography")
    names["N"], names["ANGLES"] = n, angles = 9, np.arange(4) * 45.0
    projector = names["projector"](n)
    rng = np.random.default_rng(0)
    names["A"], names["data"] = projector, rng.random(angles.size * n)
    picture, misfit = rng.random((n, n)), names["misfit"]
    for smooth in (0.0, 0.1):
        check(lambda x, smooth=smooth: misfit(x, smooth), picture)


def test_phase_retrieval_gradient_of_both_parts():
    names = formulas("phase_retrieval")
    rng = np.random.default_rng(0)
    names["masks"] = 1j ** rng.integers(0, 4, (2, 5, 5))
    names["amplitudes"] = rng.random((2, 5, 5))

    def of_parts(parts):
        f, g = names["misfit"](parts[0] + 1j * parts[1])
        return f, np.array([g.real, g.imag])

    check(of_parts, rng.standard_normal((2, 5, 5)))


def test_estimator_is_one_of_scikit_learn_and_finds_mean_and_scatter(monkeypatch):
    from sklearn.utils import estimator_checks as checks

    names = formulas("estimator")
    module = types.ModuleType("plot_estimator")  # that of the class: scikit-learn pickles it
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, "plot_estimator", module)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2000, 2)), rng.standard_normal((2, 3))
    objective = names["negative_log_likelihood"]
    y = rng.standard_normal(2000)
    check(lambda w: objective(w, x, y, 0.3), w, atol=1e-9)
    mean, scatter = 3 + 2 * x[:, 0], np.exp(0.5 * x[:, 1])
    model = names["ScatterRegressor"](alpha=0.0).fit(x, mean + scatter * y)
    found, width = model.predict(x, return_std=True)
    np.testing.assert_allclose(found, mean, atol=0.2)
    np.testing.assert_allclose(width, scatter, rtol=0.2)
    done = checks.check_estimator(names["ScatterRegressor"](), on_skip=None)
    assert {check["status"] for check in done} <= {"passed", "skipped"}
    assert len([check for check in done if check["status"] == "passed"]) > 40

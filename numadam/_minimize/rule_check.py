"""`numadam.check_rule`: all forms of a rule against each other and against Python."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from numadam._core.plan import Plan
from numadam._core.text import Text, indented, scope_of
from numadam._jit.process import parallel_from
from numadam._minimize.minimize_many import minimize_many
from numadam._optimizer.optimizer import Optimizer

#: Steps, step size, and elements that Python computes one by one.
_COMPARED, _LR, _ELEMENTS = 12, 0.05, 200
#: Units in the last place by which compiled and interpreted functions (exp, say) may differ.
_ULPS = 16


@dataclass(frozen=True)
class RuleCheck:
    """Report of `check_rule`: a line for each form and dtype that was compared."""

    name: str
    compared: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([f"{self.name}: {len(self.compared)} forms agree.", *self.compared])


def check_rule(rule: type[Optimizer]) -> RuleCheck:
    """Compare all forms of a rule: interpreted, serial, parallel, vectorised, for CUDA.

    Each step of the compiled loop is compared with the formula run by Python from the same state,
    for float32, float64 and complex numbers, to a few units in the last place. All compiled forms
    have to agree to the last bit. The kernel is compiled to PTX, which needs no GPU; in float32 it
    must not contain double precision. It takes seconds: call it in a test.

    Parameters
    ----------
    rule : type
        A class that `rule` has made, or one of numadam's.

    Returns
    -------
    RuleCheck
        With `compared`, a line for each form and dtype; it prints them. Without numba-cuda a line
        says that CUDA was left out.

    Raises
    ------
    AssertionError
        If two forms differ (the message says which, at which step, and by how much), if a state
        array of `nonnegative` is below 0, or if the steps of ``complex_form="modulus"`` do not
        rotate with the phase of the gradient.
    TypeError
        If `rule` is not an optimiser class.

    See Also
    --------
    rule : make such a class.

    Examples
    --------
    >>> import numadam as na
    >>> report = na.check_rule(na.Lion)
    >>> report.compared[0]
    'Python and CPU, float32'
    """
    known: Any = rule
    if not isinstance(known, type) or not issubclass(known, Optimizer) or known is Optimizer:
        raise TypeError(f"rule: expected a class of optimisers, got {rule!r:.80}.")
    compared = []
    for dtype in ("float32", "float64", "complex64", "complex128"):
        forms = ["parts"]
        if (
            dtype.startswith("c")
            and rule.rule.modulus(_settings_of(rule, dtype).options) is not None
        ):
            forms.append("modulus")
        for form in forms:
            _compare_with_python(rule, np.dtype(dtype), form)
            if form == "modulus" and dtype == "complex128":
                _compare_phases(rule)
            taken = f" ({form})" * dtype.startswith("c")
            compared.append(f"Python and CPU, {dtype}{taken}")
    for dtype in ("float32", "float64"):
        _compare_threads(rule, dtype)
        compared.append(f"CPU serial and parallel, {dtype}")
    _compare_lanes(rule)
    compared.append("CPU and lanes of minimize_many, float64")
    if importlib.util.find_spec("numba_cuda") is None:
        compared.append("CUDA left out: numba-cuda is not installed")
    else:
        _compile_for_cuda(rule)
        compared.append("CUDA compiled to PTX, float32 and float64")
    return RuleCheck(rule.__name__, tuple(compared))


def _make(rule: type[Any], params: Any, **options: Any) -> Any:
    """An optimiser without what comes beside the formula."""
    return rule(params, lr=_LR, weight_decay=0.0, **options)


def _settings_of(rule: type[Optimizer], dtype: Any) -> Any:
    return _make(rule, np.zeros(1, dtype))._settings  # noqa: SLF001  # an optimiser of our own


def _gradients(shape: Any, dtype: np.dtype[Any]) -> list[np.ndarray[Any, Any]]:
    """Gradients of many sizes, some of them 0."""
    random = np.random.default_rng(7)
    scale = 10.0 ** random.uniform(-3, 2, shape) * (random.random(shape) > 0.1)
    draws = [random.standard_normal(shape) * scale for _ in range(2 * _COMPARED)]
    if dtype.kind == "c":
        draws = [x + 1j * y for x, y in zip(draws[::2], draws[1::2], strict=True)]
    return [draw.astype(dtype) for draw in draws[:_COMPARED]]


# --- the text of the loop as Python runs it ------------------------------------------------------


def _by_python(plan: Plan) -> dict[str, Any]:
    """The functions ``part`` and ``fill`` of a plan's text, not compiled."""
    text = Text(plan)
    views = ", ".join(text.views[name] for name in text.arrays)
    loop = [*text.head(), "for i in range(n):", *indented(text.element())]
    lines = [f"def part({views}, n, row):", *indented(loop)]
    lines += ["def fill(row, control, products, t, lr):", *indented(text.fill())]

    def watched(function: Any) -> Any:
        def call(*given: Any) -> Any:
            try:
                return function(*given)
            except (ArithmeticError, ValueError) as error:
                numbers = ", ".join(f"{one!s:.60}" for one in given)
                raise AssertionError(
                    f"{plan.rule.name}: {function.__name__}({numbers}) raises "
                    f"{type(error).__name__} ({error}) by Python, where the compiled form gives "
                    "inf or nan: limit the argument."
                ) from error

        return call

    scope = scope_of(plan, watched)
    exec("\n".join(lines), scope)
    return scope


def _compare_with_python(rule: type[Optimizer], dtype: np.dtype[Any], form: str) -> None:
    params = np.random.default_rng(1).standard_normal(_ELEMENTS).astype(dtype)
    optimizer = _make(rule, params, complex_form=form)
    settings, nonnegative = optimizer._settings, rule.rule.nonnegative  # noqa: SLF001
    plan = settings.plan
    functions, names, carried = _by_python(plan), Text(plan).arrays, len(plan.products)
    row, products = np.zeros(len(Text(plan).scalars), plan.real), np.ones(2 * carried)
    for t, gradient in enumerate(_gradients(_ELEMENTS, dtype), 1):
        arrays = {"p": params, "g": gradient, **optimizer.state}
        before = {name: arrays[name].copy().view(plan.real) for name in names}
        wanted = {name: array.copy() for name, array in before.items()}
        with np.errstate(all="ignore"):
            functions["fill"](row, settings.control[0], products, float(t), _LR)
            n = len(before["p"]) // (2 if plan.modulus else 1)
            functions["part"](*wanted.values(), n, row)
        products[:carried] = products[carried:]
        optimizer.step(gradient)
        for name in ("p", *names[2:]):
            title = f"Python and CPU, {dtype}: {name} at step {t}"
            compiled = arrays[name].view(plan.real)
            _refuse_difference(title, compiled, wanted[name], before[name])
            if name in nonnegative and (compiled < 0).any():
                raise AssertionError(
                    f"{title}: {compiled.min()}, although `nonnegative` names {name}."
                )


def _refuse_difference(title: str, compiled: Any, by_python: Any, before: Any) -> None:
    sizes = np.maximum(np.abs(by_python), np.abs(before))
    sizes = np.where(np.isfinite(sizes), sizes, 0.0)
    # of the old and the largest number: what cancels in one element has the errors of its terms
    bound = _ULPS * np.finfo(compiled.dtype).eps * np.maximum(sizes, sizes.max() * 1e-3)
    wrong = ~np.isclose(compiled, by_python, rtol=0.0, atol=bound, equal_nan=True)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise AssertionError(f"{title}: {compiled[i]} compiled, {by_python[i]} by Python.")


def _compare_phases(rule: type[Optimizer]) -> None:
    """The law of complex_form="modulus": gradients of another phase turn the steps by it."""
    phase = 0.6 + 0.8j
    random = np.random.default_rng(4)
    start = random.standard_normal(_ELEMENTS) + 1j * random.standard_normal(_ELEMENTS)
    params, turned = start.copy(), phase * start
    of_params = _make(rule, params, complex_form="modulus")
    of_turned = _make(rule, turned, complex_form="modulus")
    for t, gradient in enumerate(_gradients(_ELEMENTS, params.dtype), 1):
        of_params.step(gradient)
        of_turned.step(phase * gradient)
        difference = np.max(np.abs(turned - phase * params), initial=0.0)
        if difference > 1e-9 * np.max(np.abs(params)):
            raise AssertionError(
                f"{rule.__name__}: complex_form='modulus': at step {t} gradients of another phase "
                f"give other steps, by {difference:.2g}: each part of m and of the step has to be "
                "linear in the parts of g, and its square gg; else leave `modulus` out."
            )


# --- compiled forms ------------------------------------------------------------------------------


def _compare_threads(rule: type[Optimizer], dtype: str) -> None:
    """One large array, which threads share, against the same in pieces that one thread steps."""
    size, pieces = parallel_from() + 1001, 16
    start = np.random.default_rng(2).standard_normal(size).astype(dtype)
    together, apart = start.copy(), np.array_split(start.copy(), pieces)
    one, several = _make(rule, together), [_make(rule, piece) for piece in apart]
    for gradient in _gradients(size, np.dtype(dtype))[:3]:
        one.step(gradient)
        for optimizer, part in zip(several, np.array_split(gradient, pieces), strict=True):
            optimizer.step(part.copy())
    if not np.array_equal(together, np.concatenate(apart), equal_nan=True):
        raise AssertionError(f"{rule.__name__}: serial and parallel loop differ, {dtype}.")


@numba.njit  # type: ignore[untyped-decorator]  # Numba's
def half_square(x: Any, g: Any) -> Any:
    f = 0.0
    for i in range(len(x)):
        g[i] = x[i]
        f += 0.5 * x[i] * x[i]
    return f


def _compare_lanes(rule: type[Optimizer]) -> None:
    start = np.random.default_rng(3).standard_normal((40, 3))
    options: dict[str, Any] = {"gtol": 0.0, "gtol_rel": 0.0, "weight_decay": 0.0}
    many: Any = minimize_many(half_square, start, rule=rule, lr=_LR, maxiter=_COMPARED, **options)
    alone = start.copy()
    optimizer = _make(rule, alone)
    for _ in range(_COMPARED):
        optimizer.step(alone.copy())
    if not np.array_equal(many.x_last, alone, equal_nan=True):
        raise AssertionError(f"{rule.__name__}: lanes of minimize_many and the step differ.")


def _compile_for_cuda(rule: type[Optimizer]) -> None:
    """Compile the kernel to PTX."""
    from numadam._cuda import private
    from numadam._cuda.compiler import ptx_of
    from numadam._cuda.kernel import make_step

    for dtype in ("float32", "float64"):
        kernel = make_step(_settings_of(rule, dtype).plan, True, False, False)
        try:
            with private.without_gpu((9, 0)):
                ptx, _ = ptx_of(kernel, (9, 0))
        except (KeyError, numba.core.errors.NumbaError) as error:  # the first of a function
            raise AssertionError(
                f"{rule.__name__}: numba-cuda cannot compile it for CUDA: {error}. It has the "
                "functions of math, and few of NumPy's."
            ) from error
        if dtype == "float32" and ".f64" in ptx:
            raise AssertionError(
                f"{rule.__name__}: the float32 kernel for CUDA computes in double precision: make "
                "every number a scalar of `h`."
            )

"""`numadam.check_rule`: all forms of a rule against each other and against Python."""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np

from numadam._core.plan import Plan
from numadam._core.rule import RuleSpec
from numadam._core.scalars import make_power
from numadam._jit.loops import parallel_from
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


# --- the formula as Python runs it ---------------------------------------------------------------


def _scalars_at(spec: RuleSpec, plan: Plan, options: Any, t: int) -> Any:
    """The scalars of a step, rounded once as the loop rounds them."""
    c = spec.hyper_type(*spec.control_values(options))
    power: Any = make_power(lambda function: function)
    betas = {f"{name}_product": power(getattr(c, name), float(t), None, 0) for name in spec.powers}
    own = dict.fromkeys(spec.own_products(None), 1.0)
    if own:
        advance = spec.compiled_advance("")
        for step in range(1, t + 1):
            own = advance(c, SimpleNamespace(**own), float(step))._asdict()
    q = SimpleNamespace(**betas, **own)
    try:
        numbers = plan.scalars(c, q, _LR, float(t))
    except (ArithmeticError, ValueError) as error:
        raise AssertionError(
            f"{spec.name}: scalars raise {type(error).__name__} ({error}) by Python at t = {t}, "
            "where the compiled form gives inf or nan: limit the argument."
        ) from error
    ends = np.finfo(plan.real).smallest_normal, 0.0
    return spec.scalar_type(*(plan.real.type(number) for number in (*numbers, *ends)))


def _run_by_python(
    plan: Plan, h: Any, p: Any, g: Any, squares: Any, state: dict[str, Any]
) -> list[tuple[Any, ...]]:
    """New parameter and state of each element."""
    element, spec, results = plan.element(), plan.rule, []
    with_square = "gg" in inspect.signature(element).parameters
    for i, x in enumerate(p):
        arrays = [state[name][i] if name in state else None for name in spec.state]
        arguments = [x, g[i], *[squares[i]] * with_square, *arrays]
        try:
            returned = element(*arguments, h)
        except (ArithmeticError, ValueError) as error:
            numbers = ", ".join(map(str, arguments))
            raise AssertionError(
                f"{spec.name}: element({numbers}, h) raises {type(error).__name__} ({error}) by "
                "Python, where the compiled form gives inf or nan: limit the argument."
            ) from error
        step, *new = returned if spec.state else (returned,)
        results.append((x - step, *(value for value in new if value is not None)))
    return results


def _parts(array: np.ndarray[Any, Any], real: np.dtype[Any], both: bool) -> Any:
    """An array as real numbers, one for each part; a real one beside complex ones twice."""
    if array.dtype.kind == "c":
        return array.copy().view(real)
    return np.repeat(array, 2) if both else array.copy()


def _compare_with_python(rule: type[Optimizer], dtype: np.dtype[Any], form: str) -> None:
    random = np.random.default_rng(1)
    params = random.standard_normal(_ELEMENTS).astype(dtype)
    optimizer = _make(rule, params, complex_form=form)
    settings, spec = optimizer._settings, rule.rule  # noqa: SLF001
    plan = settings.plan
    whole = form == "modulus"
    for t, gradient in enumerate(_gradients(_ELEMENTS, dtype), 1):
        before = _parts(params, plan.real, False)
        names = [name for name in spec.state if name in plan.present]
        state = {name: _parts(optimizer.state[name], plan.real, whole) for name in names}
        g = _parts(gradient, plan.real, False)
        squares = g * g
        if whole:
            pairs = squares.reshape(-1, 2)
            squares = np.repeat(pairs[:, 0] + pairs[:, 1], 2)
        h = _scalars_at(spec, plan, settings.options, t)
        with np.errstate(all="ignore"):
            wanted = np.array(_run_by_python(plan, h, before, g, squares, state), plan.real)
        optimizer.step(gradient)
        compiled = [_parts(params, plan.real, False)]
        compiled += [_parts(optimizer.state[name], plan.real, whole) for name in names]
        old = before, *(state[name] for name in names)
        for name, values, by_python, was in zip(
            ("p", *names), compiled, wanted.T, old, strict=True
        ):
            title = f"Python and CPU, {dtype}: {name} at step {t}"
            _refuse_difference(title, values, by_python, was)
            if name in spec.nonnegative and (values < 0).any():
                raise AssertionError(
                    f"{title}: {values.min()}, although `nonnegative` names {name}."
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

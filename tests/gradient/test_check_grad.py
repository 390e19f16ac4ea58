"""check_grad: right gradients are accepted, wrong ones named; nothing is changed.

Noise, kinks, jumps and units are told from wrong gradients.
"""

from __future__ import annotations

import math
import zlib

import numba
import numpy as np
import optree
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import rosen as rosenbrock
from scipy.optimize import rosen_der

import numadam as na
from tests.gradient.gradients import RIGHT, changed, narrow, valley, waves
from tests.minimize.objectives import START, Counted, rosen, square


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_gradients_are_accepted_and_a_factor_is_found_in_each(name, dtype):
    fun, x0 = RIGHT[name]
    x0 = x0 if dtype == "float64" else narrow(x0)
    check = na.check_grad(fun, x0, jac=True)
    assert check.ok, check
    assert (check.status, check.wrong) == ("right", ())
    assert check
    assert check.max_error <= check.tolerance
    assert check.message.startswith("The gradient is right in ")
    doubled = changed(fun, lambda g: optree.tree_map(lambda leaf: 2 * leaf, g))
    check = na.check_grad(doubled, x0, jac=True)
    assert check.status == "wrong"
    assert "it is 2.00" in check.message or "it is 1.99" in check.message


def test_fields_of_the_result():
    check = na.check_grad(changed(square, lambda g: 1.5 * g), np.arange(3.0), jac=True)
    assert not check
    assert check.worst in ("x0[1]", "x0[2]")
    assert check.value == pytest.approx(1.5 * check.difference)
    assert 0 < check.difference_error < 1e-6
    assert check.max_error == pytest.approx(1 / 3, rel=1e-4)
    assert check.tolerance == 1e-4
    assert check.wrong == ("x0[1]", "x0[2]")  # at 0 both are 0
    assert check.checked == 3
    assert repr(check).replace("\n", " ") == check.message


def test_tolerance_decides():
    slightly = changed(square, lambda g: 1.001 * g)
    assert na.check_grad(slightly, np.arange(1.0, 4.0), jac=True).status == "wrong"
    assert na.check_grad(slightly, np.arange(1.0, 4.0), jac=True, tolerance=0.01).ok


def test_x0_stays_and_calls_are_counted():
    x0 = {"w": np.arange(4.0), "b": np.ones((2, 2))}
    before = optree.tree_map(np.copy, x0)
    calls = []

    def greedy(x):
        calls.append(1)
        f = float(np.sum(x["w"] ** 2) + np.sum(x["b"] ** 3))
        g = {"w": 2 * x["w"], "b": 3 * x["b"] ** 2}
        x["w"][:] = np.nan  # of a copy
        return f, g

    check = na.check_grad(greedy, x0, jac=True)
    assert check.ok
    assert check.nfev == len(calls)
    for name, array in before.items():
        np.testing.assert_array_equal(x0[name], array)


def test_a_gradient_of_its_own_arguments_lists_and_whole_numbers():
    assert na.check_grad(rosenbrock, START, jac=rosen_der).ok
    check = na.check_grad(rosenbrock, START, jac=lambda x: -rosen_der(x))
    assert "it has the wrong sign" in check.message
    assert na.check_grad(square, [3, 4, 5], (np.array([1.0, 2.0, 3.0]),), jac=True).ok
    assert na.check_grad(square, [3, 4, 5], 2.0, jac=True).ok


@numba.njit
def pair(x, a):
    return a * np.sum(x**3), 3 * a * x**2


@numba.njit
def wrong_rosen(x, g):
    f = rosen(x, g)
    g[1] *= -1.0
    return f


@numba.njit
def numbered(x, g, i, data):
    g[:] = 2 * (x - data[i])
    return np.sum((x - data[i]) ** 2)


@numba.njit
def height(x):
    return np.sum(x**2)


def bowl(x, g):
    g[0] = 2 * x[0]
    return x[0] ** 2


@numba.njit
def writes_into_x(x, g):
    x[0], g[0] = 0.0, 1.0
    return x[0]


def test_compiled_objectives_in_each_form():
    assert na.check_grad(rosen, START).ok
    assert na.check_grad(rosen, START, jac=True).ok
    assert na.check_grad(pair, np.ones(3), (2.0,), jac=True).ok
    assert na.check_grad(pair, np.ones((2, 2)), (2.0,), jac=True).ok
    assert na.check_grad(height, np.ones(3), jac=lambda x: 2 * x).ok
    signed = numba.njit("f8(f8[::1], f8[::1])")(bowl)
    assert na.check_grad(signed, np.ones(1)).ok
    # of many problems: one of them
    assert na.check_grad(numbered, np.zeros(2), (1, np.arange(6.0).reshape(3, 2))).ok
    assert na.check_grad(rosen, START.astype("f4")).ok
    check = na.check_grad(wrong_rosen, START)
    assert check.wrong == ("x0[1]",)
    with pytest.raises(TypeError, match="fun: writes into x"):
        na.check_grad(writes_into_x, START)


def cubic(x):
    return float(np.sum(x * x * x + x)), 3 * x * x + 1


@pytest.mark.parametrize("x0", [[0.0, 0.5, 2.0], [1e-9, 1.0, 1.0 + 1e-7], [-1.0, 0.5, 3.0]])
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_no_step_leaves_the_bounds(x0, dtype):
    fun = Counted(cubic)
    check = na.check_grad(fun, np.array(x0, dtype), jac=True, bounds=(0.0, 2.0))
    assert check.ok, check
    assert 0.0 <= np.min(fun.seen) <= np.max(fun.seen) <= 2.0


def test_large_x_costs_a_bounded_number_of_calls():
    x0 = np.linspace(-1, 1, 30_000).reshape(100, 300)
    check = na.check_grad(square, x0, jac=True)
    assert check.ok
    assert check.checked == 50
    assert check.nfev < 400
    assert na.check_grad(square, x0, jac=True, elements=7, directions=0).checked == 7
    assert na.check_grad(square, x0, jac=True, elements=0, directions=3).checked == 3


def test_rng_chooses():
    x0 = np.ones(1000)

    def worst(rng):
        fun = Counted(square)
        na.check_grad(fun, x0, jac=True, elements=3, directions=0, rng=rng)
        moved = [np.flatnonzero(x != 1.0) for x in fun.seen]
        return {int(places[0]) for places in moved if len(places) == 1}

    assert len(worst(0)) == 3
    assert worst(0) == worst(0) != worst(1)


def test_directions_see_what_elements_miss():
    def one_wrong(x):
        f, g = square(x)
        g[777] += 100.0
        return f, g

    x0 = np.ones(1000)
    check = na.check_grad(one_wrong, x0, jac=True, elements=3)
    assert check.status == "wrong"
    assert check.wrong[0].startswith("random direction")
    assert "wrong in 10 of 10 random directions" in check.message


#: arguments, options, the error and its text
REFUSED = [
    ((rosenbrock, START), {}, TypeError, "there is no gradient to check"),
    ((rosenbrock, rosen_der, START), {}, TypeError, r"write check_grad\(fun, x0, jac=grad\)"),
    ((valley, START), {"elements": 0, "directions": 0}, ValueError, "x0: nothing to check"),
    ((valley, START), {"elements": -1}, ValueError, "^elements"),
    ((square, np.ones(2)), {"rng": -1}, ValueError, r"rng: .* numpy\.random\.Generator, got -1"),
    ((valley, START), {"tolerance": 0}, ValueError, "tolerance: .* positive number, got 0"),
    ((valley, {}), {}, ValueError, "x0: holds no array"),
    ((valley, START), {"bounds": (1, 1)}, ValueError, "no number that the bounds leave free"),
    (
        (lambda x: (0.0, np.zeros(3)), START),
        {},
        ValueError,
        r"fun: its gradient has shape \(3,\), expected \(2,\)",
    ),
    ((rosen, {"a": START}), {"jac": None}, TypeError, "a compiled fun takes one NumPy array"),
    ((valley, START), {"jac": rosen_der}, TypeError, "Pass jac=True if fun returns"),
    ((waves, [np.zeros(2), np.zeros(2, "f4")]), {}, TypeError, "One optimiser holds one dtype"),
]


@pytest.mark.parametrize(("args", "options", "error", "says"), REFUSED, ids=range(len(REFUSED)))
def test_refusals(args, options, error, says):
    jac = {} if args[0] is rosenbrock else {"jac": True}
    with pytest.raises(error, match=says):
        na.check_grad(*args, **(jac | options))


# --- wrong gradients ------------------------------------------------------------------------------


def of_leaf(name, change):
    return lambda g: g | {name: change(g[name])}


def doubled(g):
    return 2 * g


def one_element(g):
    g[2] += 0.01 * abs(g).max()
    return g


def with_nan(g):
    g[1] = np.nan
    return g


def same(g):
    return g


def columns(g):
    return g.reshape(-1).reshape(g.shape, order="F")


def penalised(x):
    """A penalty that the gradient lacks."""
    f, g = square(x, 1.0)
    return f + 0.5 * 3.0 * float(x @ x), g


def rows(x):
    """Depends on row and column, in an array that is not square."""
    a = np.arange(1.0, 13.0).reshape(3, 4)
    return float(np.sum(a * x)), a + 0 * x


def matrix(p):
    return waves(p["w"])[0], {"w": waves(p["w"])[1]}


def mean(x):
    return float(np.mean(np.sin(x))), np.cos(x)


CASES = RIGHT | {
    "rows": (rows, np.linspace(0, 1, 12).reshape(3, 4)),
    "matrix": (matrix, {"w": RIGHT["waves"][1]}),
    "penalised": (penalised, np.linspace(-1, 1, 9)),
    "mean": (mean, np.linspace(0, 1, 7)),
    "seven": (square, np.linspace(0.1, 1, 7)),
    "nine": (square, np.linspace(-1, 1, 9)),
}
#: a case, how its gradient is changed, and what is said of it
WRONG = [
    ("valley", np.negative, "it has the wrong sign"),
    ("decays", lambda g: g / 2, "it is 0.5000 times what"),
    ("waves", np.transpose, "it is transposed"),
    ("waves", lambda g: 2 * g.T, "transposed, and 2.000 times as large"),
    ("amplitudes", np.conj, "it is the conjugate"),
    ("amplitudes", lambda g: g / 2, "0.5000 times"),  # torch's
    ("amplitudes", lambda g: g.real + 0j, ".imag"),
    ("rows", columns, "it is in Fortran order, column by column"),
    ("network", of_leaf("b", np.negative), "in x0['b'] it has the wrong sign"),
    ("network", of_leaf("b", np.zeros_like), "in x0['b'] it is 0, where fun changes"),
    ("penalised", same, "it lacks 3 * x, such as that of a penalty"),
    ("decays", one_element, "1 of 4 elements (x0[2]). Worst"),
    ("decays", with_nan, "(x0[1]). Worst: x0[1] is nan by formula."),
    ("valley", lambda g: np.roll(g, 1), "it is moved by one place"),
    ("valley", lambda g: g[::-1], "it is in reversed order"),
    ("valley", lambda g: g[[1, 3, 0, 2]], "The gradient is wrong in 4 of 4 elements. "),
    ("mean", same, "7.00"),  # in float32 it may be 7.001
    ("seven", lambda g: g / 7, "1/7, as a mean in place of a sum would be"),
    ("nine", lambda g: g - 3, "it lacks 3"),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "change", "says"), WRONG, ids=range(len(WRONG)))
def test_wrong_gradients_are_refused_and_named(name, change, says, dtype):
    fun, x0 = CASES[name]
    x0 = x0 if dtype == "float64" else narrow(x0)
    check = na.check_grad(changed(fun, change), x0, jac=True)
    assert check.status == "wrong", check
    assert not check.ok
    assert says in check.message
    assert check.worst in check.wrong


# --- functions that are not smooth, not finite, or of other units --------------------------------


def random_f(size):
    rng = np.random.default_rng(0)
    return lambda x: (square(x)[0] + size * rng.standard_normal(), square(x)[1])


def solver(x):
    """An adjoint that is exact, beside a loose solver."""
    run = solve_ivp(lambda t, y: -x * y, (0, 1), [1.0], rtol=1e-4, atol=1e-6)
    return float(run.y[0, -1]), -np.exp(-x)


def single(x):
    """float32 inside of a float64 function."""
    x = x.astype("f4")
    return np.sum(np.sin(x)), np.cos(x)


def corners(x):
    return float(np.sum(abs(x))), np.sign(x)


def relu(x):
    return float(np.sum(np.maximum(x, 0))), 1.0 * (x > 0)


def edge(x):
    return (np.nan if x[1] > 2 else float(x @ x)), 2 * x


def offset(x):
    """An f that is far larger than it changes."""
    return 1e8 + float(np.sum(np.sin(x))), np.cos(x)


def short_stairs(x):
    """Flat within 1e-6, and 1000 times as steep over more."""
    return float(x @ x + 1e-3 * np.floor(1e6 * x[0] + 0.5)), 2 * x


def stairs(slope):
    """The gradient of a count is 0 nearly everywhere, and of no use."""
    return lambda x: (float(np.floor(3 * x).sum()), slope + 0 * x)


def exponentials(x):
    """`math` raises where NumPy returns inf; an element of 1e-6 is not moved by 1e-4 first."""
    f = math.exp(x[0] / 1e-6) + math.exp(x[1] / 300)
    return f, np.array([math.exp(x[0] / 1e-6) / 1e-6, math.exp(x[1] / 300) / 300])


def of_size(scale):
    """A sine in units of these sizes."""
    return lambda x: (float(np.sum(np.sin(x / scale))), np.cos(x / scale) / scale)


def too_steep(x):
    weights = np.array([1e8, 1.0, 1e-4])
    return float(weights @ x**2), 2 * weights * x * [1, 1, 2]


def kept():
    """A gradient that is added to an array that is kept."""
    g = np.zeros(3)

    def fun(x):
        g[:] += 2 * x
        return float(x @ x), g

    return fun


def before():
    """The gradient of the call before, right at the first call."""
    seen = [np.array([2.0, 4.0, 6.0])]

    def fun(x):
        seen.append(2 * x)
        return float(x @ x), seen[-2]

    return fun


AROUND_0, KINK = np.zeros(3), np.array([0.0, 1.0, -2.0, 3.0])
COUNT, TENTHS = np.array([1.0, 2.0, 3.0]), np.linspace(0.1, 1.2, 7)
#: of very different sizes in one x
SIZES, WIDE = np.array([1.0, 1e6, 1e12]), np.array([1e-150, 1e-8, 1.0, 1e8, 1e150])
#: fun, x0, options, the verdict, and what is said
VERDICTS = [
    (random_f(1.0), np.ones(5), {}, "unclear", "fun is random"),
    (random_f(1e-9), np.ones(5), {}, "right", ""),
    (solver, np.array([1.3]), {}, "right", ""),
    (single, TENTHS, {}, "right", ""),
    (corners, AROUND_0, {}, "unclear", "fun has a kink at x0"),
    (corners, KINK, {}, "right", ""),  # a subgradient
    (relu, KINK, {}, "right", "fun has a kink in 1 of them"),
    (changed(corners, lambda g: g + 3.0), AROUND_0, {}, "wrong", ""),  # beyond both slopes
    (square, np.zeros(4), {}, "unclear", "the gradient is 0 at x0"),
    (square, np.array([1.0, np.nan]), {}, "unclear", "Cannot tell: x0[1] is nan."),
    (lambda x: (np.nan, x), np.ones(2), {}, "unclear", "Cannot tell: fun is nan at x0."),
    (
        lambda x: (0.0 if (x == 1).all() else np.inf, x),
        np.ones(2),
        {},
        "unclear",
        "Cannot tell: fun is not finite around x0.",
    ),
    (edge, COUNT, {}, "unclear", "Cannot tell: fun is not finite near x0, where x0[1] is "),
    (edge, COUNT, {"bounds": (None, 2)}, "right", ""),
    (stairs(0.0), [1.5], {}, "unclear", ""),
    (stairs(3.0), [1.5], {}, "wrong", "x0[0] is 3 by formula, 0 by"),
    (short_stairs, COUNT[:2], {}, "unclear", "not smooth in x0[0]"),
    (kept(), COUNT, {}, "wrong", "it is another one. It may be added to an array that is kept"),
    (before(), COUNT, {}, "wrong", "called again at x0, it is another one"),
    (offset, TENTHS, {}, "right", ""),
    (lambda x: square(x, 1e6 + 1), np.full(3, 1e6), {}, "right", ""),
    (changed(offset, lambda g: 1.01 * g), TENTHS, {}, "wrong", ""),
    (exponentials, np.array([1e-6, 290.0]), {}, "right", ""),
    (of_size(WIDE), WIDE, {}, "right", ""),
    (too_steep, np.ones(3), {}, "right", "for x0[2], where the slope is too small beside f"),
    (changed(of_size(SIZES), lambda g: g * [1, 1, 2]), SIZES, {}, "wrong", "x0[2]"),
    (mean, np.linspace(0, 1, 9), {}, "wrong", "as a sum in place of a mean of 9 would be"),
    (
        changed(square, lambda g: 3 * g),
        np.linspace(1, 2, 5000),
        {"elements": 0, "directions": 4},
        "wrong",
        "wrong in 4 of 4 random directions: it is 3.000 times",
    ),
]


@pytest.mark.parametrize(
    ("fun", "x0", "options", "status", "says"), VERDICTS, ids=range(len(VERDICTS))
)
def test_verdicts(fun, x0, options, status, says):
    check = na.check_grad(fun, x0, jac=True, **options)
    assert check.status == status, check
    assert check.ok == (status == "right")
    assert says in check.message
    assert "penalty" not in check.message
    if fun is short_stairs:
        assert check.unclear == ("x0[0]",)


def test_a_jac_that_uses_the_x_of_the_last_fun():
    """SciPy always calls fun before jac; `minimize` does where f is read."""

    class Model:
        def fun(self, x):
            self.x = x
            return float(x @ x)

        def jac(self, x):
            return 2 * self.x

    model = Model()
    check = na.check_grad(model.fun, COUNT, jac=model.jac)
    assert check.status == "wrong"
    assert "called again at x0, without fun before it, it is another one" in check.message
    assert na.check_grad(lambda x: float(x @ x), np.ones(2), jac=lambda x: 2 * x).ok


@pytest.mark.parametrize("size", [1e-3, 1e-1, 1e0, 1e1])
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_never_called_a_wrong_gradient(seed, size):
    """Noise that is the same at every call of one x, as that of a solver."""

    def fun(x):
        noise = np.random.default_rng([seed, zlib.crc32(x.tobytes())]).standard_normal()
        return square(x)[0] + size * noise, square(x)[1]

    check = na.check_grad(fun, np.array([1.0, -2.0, 0.5]), jac=True, rng=seed)
    if size == 1e-3:  # long steps may see beyond it
        assert check.status != "wrong"
    else:
        assert check.status == "unclear"
        assert "fun is noisy, or not smooth" in check.message


def test_an_exception_beside_x0_names_the_bounds():
    def raising(x):
        if x[1] > 2:
            raise ValueError("too far")
        return float(x @ x), 2 * x

    with pytest.raises(ValueError, match="too far") as caught:
        na.check_grad(raising, COUNT, jac=True)
    assert "check_grad calls fun beside x0" in caught.value.__notes__[0]
    assert "bounds" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="too far") as caught:
        na.check_grad(raising, 3 * COUNT, jac=True)
    assert not hasattr(caught.value, "__notes__")


# --- scales --------------------------------------------------------------------------------------

UNITS = [1e-300, 1e-200, 1e-160, 1e160, 1e200, 1e300]


def assert_right_and_doubled(fun, x0):
    assert na.check_grad(fun, x0, jac=True).ok
    assert "it is 2.000 times" in na.check_grad(changed(fun, doubled), x0, jac=True).message


@pytest.mark.parametrize("unit", UNITS)
def test_units_near_the_ends_of_float64(unit):
    """No square of x, of its slopes or of the gradient is formed."""
    x0 = np.array([0.5, -1.0, 1.5])
    assert_right_and_doubled(of_size(unit), x0 * unit)
    assert_right_and_doubled(lambda x: (unit * float(np.sum(np.sin(x))), unit * np.cos(x)), x0)


@pytest.mark.parametrize("scale", [1e-6, 1e-9, 1e-12, 1e-15])
def test_x_at_0_that_changes_on_a_short_scale(scale):
    """As a capacitance in farads: nothing but f says how long a step may be."""
    assert_right_and_doubled(of_size(scale), np.zeros(3))


@pytest.mark.parametrize("frequency", [1e6, 1e8, 1e10, 1e12])
@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1.0])
def test_waves_that_the_steps_jump_over_are_not_called_wrong(size, frequency):
    def fun(x):
        f = float(x @ x + size * np.sum(np.sin(frequency * x)))
        return f, 2 * x + size * frequency * np.cos(frequency * x)

    for seed in range(5):
        x0 = np.random.default_rng(seed).standard_normal(3)
        assert na.check_grad(fun, x0, jac=True).status != "wrong"


# --- residuals -----------------------------------------------------------------------------------

T = np.linspace(0.1, 3, 8)


@numba.njit
def fit(x, r, J, i, t, d):
    for k in range(t.size):
        e = np.exp(-x[1] * t[k])
        r[k] = x[0] * e - d[i, k]
        J[k, 0], J[k, 1] = e, -x[0] * t[k] * e


@numba.njit
def one_wrong_entry(x, r, J, t, d):
    fit(x, r, J, 0, t, d)
    J[3, 1] *= 1.01


@numba.njit
def wrong_sign(x, r, J, i, t, d):
    for k in range(t.size):
        r[k] = d[i, k] + x[0] * t[k] + x[1]
        J[k, 0], J[k, 1] = -t[k], 1.0


DATA = np.exp(-np.outer([0.5, 1.0], T))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("args", [(T, DATA), (1, T, DATA)])
def test_a_jacobian_is_checked_column_by_column(dtype, args):
    x0 = np.array([1.2, 0.7], dtype)
    check = na.check_grad(fit, x0, args, m=8, jac=True)
    assert check.ok, check
    assert check.checked == 16
    assert check.message.startswith("The Jacobian is right in 16 derivatives: ")
    assert na.check_grad(fit, x0[None], args, m=8, jac=True) == check


def test_a_wrong_entry_and_a_wrong_column_are_named():
    check = na.check_grad(one_wrong_entry, np.array([1.2, 0.7]), (T, DATA), m=8, jac=True)
    assert check.wrong == ("J[3, 1]",) == (check.worst,)
    assert check.value == pytest.approx(1.01 * check.difference)
    assert "The Jacobian is wrong in 1 of 16 derivatives (J[3, 1]). Worst: J[3, 1]" in check.message
    check = na.check_grad(wrong_sign, np.zeros(2), (T, DATA), m=8, jac=True)
    assert check.wrong == tuple(f"J[{k}, 0]" for k in range(8))
    assert "in column 0 it has the wrong sign" in check.message


@numba.njit
def line(x, r, J, t, offset, unit):
    for k in range(t.size):
        u = (x[0] - offset) / unit
        r[k] = np.sin(u + t[k])
        J[k, 0] = np.cos(u + t[k]) / unit


@numba.njit
def twice(x, r, J, t, offset, unit):
    line(x, r, J, t, offset, unit)
    for k in range(t.size):
        J[k, 0] *= 2


#: the start, the offset and the unit of x
PLACES = [(x, 0.3, 1.0) for x in (0.0, 1e-300, -1e-20, 1e-9, 1e-4)]
PLACES += [(0.0, 0.0, unit) for unit in (1e-16, 1e-9)] + [(1e-300, 3e-17, 1e-16)]
PLACES += [(2.5e6 + 0.4, 2.5e6, 1.0), (1.7e9, 1.7e9, 3600.0), (3e-160, 0.0, 1e-160)]


@pytest.mark.parametrize(("x", "offset", "unit"), PLACES)
def test_differences_see_residuals_wherever_x_is(x, offset, unit):
    """A step of a share of x says nothing at 1e-300, and too much at a large offset."""
    args = T, offset, unit
    check = na.check_grad(line, [x], args, m=8, jac=True)
    assert check.ok, check
    check = na.check_grad(twice, [x], args, m=8, jac=True)
    assert len(check.wrong) == 8, check
    assert check.value == pytest.approx(2 * check.difference, rel=1e-3)


@numba.njit
def without_number(x, r, J):
    r[0], J[0, 0] = x[0], 1.0


def test_residuals_that_cannot_be_checked_are_refused():
    with pytest.raises(TypeError, match="there is no gradient to check"):
        na.check_grad(fit, np.ones(2), (T, DATA), m=8, jac="2-point")
    with pytest.raises(TypeError, match="jac: expected None, True or 'differences', got <function"):
        na.check_grad(fit, np.ones(2), (T, DATA), m=8, jac=square)
    with pytest.raises(TypeError, match="fun: expected a function compiled by Numba"):
        na.check_grad(square, np.ones(2), m=8, jac=True)
    with pytest.raises(ValueError, match=r"x0: got 3 problems; one is checked. Pass x0\[i\]"):
        na.check_grad(fit, np.ones((3, 2)), (T, DATA), m=8, jac=True)
    with pytest.raises(ValueError, match=r"^m: "):
        na.check_grad(without_number, np.ones(1), m=0, jac=True)
    with pytest.raises(TypeError, match=r"with 2 args and jac=True it is called as"):
        na.check_grad(without_number, np.ones(1), (1, 2), m=1, jac=True)


@numba.njit
def transposed(x, r, J):
    for k in range(8):
        r[k], J[0, k] = x[0], 1.0


def test_residuals_that_write_elsewhere_are_refused_before_they_do_harm():
    with pytest.raises(ValueError, match="fun wrote 8 residuals, m is 3"):
        na.check_grad(fit, np.ones(2), (T, DATA), m=3, jac=True)
    with pytest.raises(ValueError, match="J"):
        na.check_grad(transposed, np.ones(1), m=8, jac=True)

"""minimize and bad input: refused with the name of the argument, what it got, what to do.

And starts of every kind: lists, whole numbers, labelled arrays; and units, refused.
"""

from __future__ import annotations

import numba
import numpy as np
import pytest

import numadam as na
from numadam._minimize import arguments
from numadam._minimize.compiled.objective import type_of_args
from tests.minimize.objectives import python_rosen, rosen, square
from tests.trees import tree_map


@numba.njit
def four(x, g, a, b):
    return 0.0


@numba.njit
def three(x, g, a):
    return g[0]


@numba.njit
def tells_nothing(x, g):
    g[0] = 1.0


@numba.njit
def fills_x(x, g):
    x[:] = g
    return 0.0


@numba.njit
def names_g_anew(x, g):
    g = 2 * x  # noqa: F841  (the mistake that is looked for)
    return np.sum(x * x)


@numba.njit
def forgets_g(x, g, i, data):
    return data[i] * x[0]


def not_compiled(x, g, data):
    return 0.0


def not_compiled_either(x, g, i, data):
    return 0.0


def height(x):
    return square(x)[0]


@numba.njit
def reads_a_list(x, g, data):
    g[0] = x[0] - data[0, 0]
    return g[0] ** 2


def away_from(x, a):
    """Numbers of the shape of x, where args are a tuple."""
    return np.sum((x - a) ** 2), 2 * (x - a)


def gaps(x, a):
    return x - a


def two(x, f):
    """No signature of a callback."""


#: an array as FITS files hold them, on most machines
BIG_ENDIAN = np.ones(3, ">f8")

REFUSED = [
    ((3, np.zeros(2)), {}, TypeError, "fun: expected a function"),
    ((square, "abc"), {}, TypeError, "x0"),
    ((square, np.zeros(2)), {"jac": "4-point"}, ValueError, "jac: expected True"),
    ((square, np.zeros(2)), {"jac": True, "norm": 1}, ValueError, r"norm: expected numpy.inf or 2"),
    ((square, np.zeros(2)), {"jac": True, "rule": "newton"}, ValueError, "rule: expected one of"),
    ((square, np.zeros(2)), {"jac": True, "state": {"t": 1}}, ValueError, "state"),
    ((square, np.zeros(2)), {"jac": True, "check_every": 0}, ValueError, "check_every"),
    ((square, np.zeros(2)), {"jac": True, "maximize": True}, ValueError, "minimise -fun"),
    ((square, np.zeros(2)), {"jac": True, "comm": 0}, ValueError, r"comm: .*na\.Adam\(block, comm"),
    ((square, np.zeros(2)), {"jac": True, "nonfinite": "skip"}, ValueError, "status 3"),
    ((square, np.zeros(3)), {"jac": True, "bounds": 5}, TypeError, "bounds: expected"),
    ((rosen, {"x": np.zeros(2)}), {}, TypeError, "compiled fun takes one NumPy array"),
    ((four, np.zeros(2)), {}, TypeError, "takes 2 arguments"),
    ((four, np.zeros(2), (1.0,)), {"jac": True}, TypeError, "takes 3 arguments"),
    ((tells_nothing, np.zeros(2)), {}, TypeError, "number f, got none; is there a `return`"),
    ((three, np.zeros(2), ({"a": 1},)), {}, TypeError, r"args\[0\]: Numba has no type for dict"),
    ((three, np.zeros(2), (BIG_ENDIAN,)), {}, TypeError, r"args\[0\]: .*\(>f8\)\. Pass a\.astype"),
    ((three, np.zeros(2), [np.ones(3)]), {}, TypeError, r"args: expected a tuple, got a list"),
    ((fills_x, np.zeros(2)), {}, TypeError, "fun: writes into x.*gradient goes into g"),
    ((square, np.zeros(2)), {}, TypeError, "got tuple. Pass jac=True"),
    ((not_compiled, np.zeros(2), (1.0,)), {}, TypeError, r"got not_compiled\(x, g, data\).*njit"),
    ((not_compiled, np.zeros(2), 1.0), {"jac": True}, TypeError, "numba.njit"),
    ((names_g_anew, np.ones(2)), {}, TypeError, r"never reads g.*g\[:\] = "),
    ((lambda x, a: 1.0, np.zeros(2)), {}, TypeError, "x and 0 args.*Pass the rest in args"),
    ((square, np.zeros(2)), {"method": "adam"}, ValueError, "method: .*rule="),
    ((square, np.zeros(2)), {"tol": -1e-3, "jac": True}, ValueError, "^tol: expected a number in"),
    ((square, np.zeros(2)), {"maxitr": 5}, TypeError, "argument. Did you mean 'maxiter'\\?$"),
    ((square, np.zeros(2)), {"options": {"lr": 5}, "lr": 4}, TypeError, "lr: is given as a keyw"),
    ((square, np.zeros(2)), {"options": 5}, TypeError, "options: expected a dict .*, got int"),
    ((square, np.zeros(2)), {"options": {"maxfun": 5}}, ValueError, "maxfun: .*maxiter="),
    ((square, np.zeros(2)), {"constraints": [{"type": "eq"}]}, ValueError, "constraints: .*bounds"),
    ((square, np.zeros(2)), {"hess": abs}, ValueError, "hess: .*second derivatives"),
    ((square, np.zeros(2)), {"stepsize": 0.1, "jac": True}, TypeError, "Write lr="),
    ((square, np.ones(3)), {"jac": np.ones(3)}, ValueError, "jac: expected True"),
    ((square, np.ones(3)), {"jac": True, "track_best": "no"}, TypeError, "track_best"),
    ((rosen, np.ones(2)), {"jac": np.True_}, ValueError, "jac: expected True or None"),
    ((square, np.ones(3)), {"method": "L-BFGS-B"}, ValueError, "scipy.optimize.minimize"),
    ((np.ones(3), square), {"jac": True}, TypeError, "x0: .*order of arguments"),
    ((square, np.ones(3)), {"jac": True, "maxiter": 1e3}, TypeError, "maxiter: .* Write 1000"),
    ((height, np.ones(3)), {"jac": square}, TypeError, "a number and an array.*jac=True"),
    ((height, np.ones(3)), {"jac": lambda x: x[:, None]}, ValueError, r"\(3, 1\).*Use .reshape"),
    ((height, np.ones(3)), {"jac": lambda x: None}, TypeError, "jac: .* is None.* `return`"),
    (
        (square, np.ones(3)),
        {"jac": True, "callback": two},
        TypeError,
        r"callback\(x\).*two\(x, f\)",
    ),
    ((away_from, np.ones(2), [np.ones(2)]), {"jac": True}, ValueError, r"\(1, 2\).*args is a list"),
    ((gaps, np.ones(2), [np.ones(2)]), {}, TypeError, r"shape \(1, 2\).*args is a list"),
    ((reads_a_list, np.ones(1), ([[1.0]],)), {}, TypeError, r"reads_a_list\(x, g, data\).*array"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused_before_anything_runs(args, options, error, message):
    with pytest.raises(error, match=message):
        na.minimize(*args, **options)


RETURNED = [
    (lambda x: None, TypeError, "jac=True it has to return"),
    (lambda x: 3.0, TypeError, "jac=True it has to return"),
    (lambda x: (None, x), TypeError, "returned None"),
    (lambda x: (x, x), TypeError, "one real number"),
    (lambda x: (1j, x), TypeError, "one real number"),
    (lambda x: (1.0, x[:1]), ValueError, r"shape \(1,\), expected \(2,\)"),
    (lambda x: (1.0, x * 1j), TypeError, "complex128, expected float64"),
    (lambda x: (1.0, np.array(["a", "b"])), TypeError, "expected float64"),
]


@pytest.mark.parametrize(("fun", "error", "message"), RETURNED, ids=range(len(RETURNED)))
def test_what_fun_may_not_return(fun, error, message):
    x0 = np.ones(2)
    with pytest.raises(error, match=message) as caught:
        na.minimize(fun, x0, jac=True)
    assert caught.value.numadam_result.nit == 0
    np.testing.assert_array_equal(x0, 1)


def masked(x):
    return np.ma.array(x, mask=np.arange(np.size(x)).reshape(np.shape(x)) == 0)


def resumed(x):
    state = na.minimize(square, x, jac=True, maxiter=2).state
    na.minimize(square, x, jac=True, maxiter=4, state={**state, "x": masked(x)})


MASKED = {
    "f": lambda x: na.minimize(lambda x: (np.ma.masked, 2 * x), x, jac=True),
    "f without a mask": lambda x: na.minimize(lambda x: (np.ma.array(1.0), x), x, jac=True),
    "f apart": lambda x: na.minimize(lambda x: masked([1.0]), x, jac=lambda x: x, ftol=0.1),
    "f of complex": lambda x: na.minimize(lambda x: masked([x.sum()]), x, jac="cs"),
    "g": lambda x: na.minimize(lambda x: (1.0, masked(x)), x, jac=True),
    "numbers of g": lambda x: na.minimize(lambda x: (1.0, [np.ma.masked, 1, 1]), x, jac=True),
    "g apart": lambda x: na.minimize(lambda x: 1.0, x, jac=masked),
    "g of a dict": lambda x: na.minimize(
        lambda x: (1.0, {"a": masked(x["a"])}), {"a": x}, jac=True
    ),
    "x0": lambda x: na.minimize(square, masked(x), jac=True),
    "saved x": resumed,
    "f of many": lambda x: na.minimize_many(lambda x: (masked([1.0]), x), x[None], jac=True),
    "x0 of many": lambda x: na.minimize_many(rosen, masked(x[None])),
    "lr of many": lambda x: na.minimize_many(rosen, x[None], lr=masked([0.1])),
    "lr": lambda x: na.minimize(square, x, jac=True, lr=masked(x)),
    "pairs of bounds": lambda x: na.minimize(square, x, jac=True, bounds=masked([[0, 2]] * 3)),
}


@pytest.mark.parametrize("what", MASKED)
def test_numbers_under_a_mask_are_refused(what):
    """As by a step: which elements count is not known."""
    with pytest.raises(TypeError, match=r"masked array: which elements count\? Use x.filled\(0\)"):
        MASKED[what](np.ones(3))


#: Ways to return a gradient of whole numbers.
KINDS = {
    "list": np.ndarray.tolist,
    "float32": lambda g: g.astype(np.float32),
    "int64": lambda g: g.astype(np.int64),
    "F": np.asfortranarray,
    "strided": lambda g: np.repeat(g, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_other_kinds_are_taken(kind):
    def fun(x, change):
        return np.array([0.5 * np.sum(x**2)]), change(np.round(x))

    x0, options = np.arange(6.0).reshape(2, 3), {"jac": True, "maxiter": 5}
    res, plain = (na.minimize(fun, x0, (change,), **options) for change in (KINDS[kind], np.copy))
    np.testing.assert_array_equal(res.x, plain.x)
    assert res.nit == 5


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">c16", ">i4", "<f8", "<c8"])
@pytest.mark.parametrize("minimize", [na.minimize, na.minimize_many])
def test_x0_of_any_byte_order_is_taken_and_its_dtype_stays(minimize, dtype):
    """FITS files are big-endian; x0 is copied anyway."""
    x0 = np.arange(1, 7).reshape(3, 2).astype(dtype)

    def fun(x):
        f = np.sum(np.abs(x) ** 2, axis=1)
        return (f if minimize is na.minimize_many else np.sum(f)), 2 * x

    res, native = (minimize(fun, x, jac=True, maxiter=3) for x in (x0, x0.astype(dtype[1:])))
    assert res.x.dtype == res.jac.dtype == ("f8" if dtype == ">i4" else dtype[1:])
    np.testing.assert_array_equal(res.x, native.x, strict=True)


def test_args_need_not_be_a_tuple():
    assert na.minimize(square, np.zeros(2), 0.25, jac=True, lr=0.1).x == pytest.approx(0.25)
    assert na.minimize(python_rosen, np.ones(2), jac=True, maxiter=0).fun == 0


FALLING = na.schedules.Cosine(0.1, steps=10)

MANY = [
    ((rosen, np.zeros(2)), {}, ValueError, r"shape \(problems, ...\)"),
    ((rosen, np.zeros((2, 2))), {"lr": np.ones(2)}, ValueError, "one for each problem or for"),
    ((rosen, np.zeros((3, 2))), {"lr": [0.1, [0.2]]}, ValueError, "lr: "),
    ((square, np.zeros((3, 2))), {}, ValueError, "jac"),
    ((square, np.zeros((3, 2))), {"jac": True}, ValueError, r"f has to be an array of shape \(3,"),
    ((square, np.zeros((3, 2))), {"jac": True, "clip_norm": 1.0}, ValueError, "clip_norm: .* mix"),
    ((rosen, np.zeros((3, 2))), {"ema": 0.9, "ema_debias": True}, ValueError, "ema_debias"),
    ((four, np.zeros((3, 2))), {}, TypeError, "takes 2 arguments"),
    ((three, np.zeros((3, 2)), (BIG_ENDIAN,)), {}, TypeError, r"args\[0\]: .* Pass a\.astype"),
    ((rosen, np.zeros((3, 2))), {"callback": print}, TypeError, "callback: .*numadam.minimize"),
    ((rosen, np.zeros((3, 2))), {"state": None}, TypeError, "state: .*numadam.minimize"),
    ((rosen, np.zeros((2, 2))), {"lr": [0.1, FALLING]}, TypeError, r"lr\[1\]: .* all problems"),
    ((forgets_g, np.zeros((3, 2)), (np.ones(3),)), {}, TypeError, "never reads g"),
    ((rosen, np.zeros((3, 2))), {"atol": 1e-3}, TypeError, "atol: .*gtol=..., ftol=... or xtol="),
    ((not_compiled, np.zeros((3, 2)), (1,)), {"jac": True}, TypeError, "numba.njit"),
    ((not_compiled_either, np.zeros((3, 2)), (1,)), {}, TypeError, "numba.njit"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), MANY, ids=range(len(MANY)))
def test_many_refuses(args, options, error, message):
    with pytest.raises(error, match=message):
        na.minimize_many(*args, **options)


@numba.njit
def with_default(x, g, scale=2.0):
    g[0] = 2 * scale * x[0]
    return scale * x[0] ** 2


def test_an_objective_that_could_be_called_in_two_ways_is_refused():
    with pytest.raises(TypeError, match="without defaults"):
        na.minimize_many(with_default, np.ones((3, 1)))
    assert na.minimize(with_default, np.ones(1), lr=0.1).success


# --- arguments as they are read -------------------------------------------------------------------


def test_rules_are_read():
    assert arguments.rule_class(na.AdamW) is na.AdamW
    assert arguments.rule_class("adamW") is na.AdamW
    for rule, says in [
        ("Nesterov", "Write rule='sgd', momentum=0.9, nesterov=True.$"),
        ("momentum", "Write rule='sgd', momentum=0.9.$"),
        ("amsgrad", "Write rule='adam', amsgrad=True.$"),
        (na.Optimizer, "^rule: expected one of 'ada.*, got <class .*Optimizer'>.$"),
        (3, "^rule: expected one of 'ada.*, got 3.$"),
    ]:
        with pytest.raises(ValueError, match=says):
            arguments.rule_class(rule)


# --- starts, and units ----------------------------------------------------------------------------


def still(x):
    """An f whose gradient is 0, for any nesting."""
    return 0.0, tree_map(np.zeros_like, x)


WHOLE = [
    (np.array([1, 2, 3]), np.array([1.0, 2.0, 3.0])),
    ([1, 2, 3], np.array([1.0, 2.0, 3.0])),
    ((1, 2.5), np.array([1.0, 2.5])),
    (3, np.array(3.0)),
    ({"a": np.array([1, 2]), "b": 1}, {"a": np.array([1.0, 2.0]), "b": np.array(1.0)}),
    ([np.array([1, 2]), np.ones(2)], [np.array([1.0, 2.0]), np.ones(2)]),
]


@pytest.mark.parametrize(("x0", "start"), WHOLE, ids=range(len(WHOLE)))
def test_whole_numbers_become_float64(x0, start):
    def same(leaf, other):
        assert (leaf.dtype, leaf.shape) == (np.float64, other.shape)
        np.testing.assert_array_equal(leaf, other)
        return 0

    tree_map(same, na.minimize(still, x0, jac=True, maxiter=0).x, start)


OPTIMISER = [
    (np.array([1, 2, 3]), r"^params: .* got int64. Use .astype\(numpy.float64\)"),
    ([1, 2, 3], r"^params\[0\]: .*A list of numbers is one array: numpy.array\(x, dtype=float"),
    ({"w": [1.0]}, r"^params\['w'\]\[0\]: .*A list of numbers is one array"),
]


@pytest.mark.parametrize(("x", "says"), OPTIMISER, ids=range(3))
def test_an_optimiser_changes_arrays_in_place_so_it_takes_none(x, says):
    with pytest.raises(TypeError, match=says):
        na.Adam(x)


class Labelled:
    """An array of pandas, xarray or dask: NumPy can copy it, but it is no array of NumPy's."""

    def __init__(self, values, **notes):
        self.values = values
        vars(self).update(notes)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def test_labelled_arrays_are_copied():
    x0 = Labelled([1.0, 2.0], units="m")  # a note, as xarray has it
    run = {"jac": True, "maxiter": 0}
    for x in (
        na.minimize(still, x0, **run).x,
        na.minimize(still, {"a": x0}, **run).x["a"],
        na.minimize_many(lambda x: (np.zeros(1), 0 * x), Labelled([[1, 2]]), **run).x[0],
    ):
        assert type(x) is np.ndarray
        np.testing.assert_array_equal(x, x0.values)
    assert x0.values == [1.0, 2.0]


NO_STARTS = [
    (None, TypeError, r"^x0: expected a start, got None"),
    ({"a": None}, TypeError, r"^x0\['a'\]: expected a start, got None"),
    ([np.ones(2), "b"], TypeError, r"^x0\[1\]: expected a NumPy or CuPy array, got str"),
    ([[1.0], [1.0, 2.0]], ValueError, r"^x0: .*inhomogeneous"),
    (np.ones(2, np.float16), TypeError, r"^x0: expected float32.*got float16"),
    ({"a": np.ones(2, bool)}, TypeError, r"^x0\['a'\]: expected float32.*got bool"),
    *((Labelled([value]), TypeError, r"^x0: expected float32") for value in ("a", None, True)),
]


@pytest.mark.parametrize(("x0", "error", "says"), NO_STARTS, ids=range(len(NO_STARTS)))
def test_starts_that_are_refused(x0, error, says):
    with pytest.raises(error, match=says):
        na.minimize(square, x0, jac=True)


# --- units ---------------------------------------------------------------------------------------


class Quantity(np.ndarray):
    """An array of astropy or unyt: NumPy's, with a unit besides."""

    unit = None
    value = property(lambda self: self.view(np.ndarray))

    def __array_finalize__(self, other):
        self.unit = getattr(other, "unit", None)


class Measured(Labelled):
    """An array of pint: a proxy of NumPy's."""

    units = property(lambda self: "metre")
    magnitude = property(lambda self: self.values)
    dtype = property(lambda self: self.values.dtype)

    @property
    def __array_interface__(self):
        return self.values.__array_interface__


def astropys(values):
    quantity = np.array(values, float).view(Quantity)
    quantity.unit = "m"
    return quantity


def pints(values):
    return Measured(np.array(values, float))


@pytest.mark.parametrize(
    ("kind", "says"), [(astropys, "unit, m, .* pass x.value"), (pints, "metre, .* x.magnitude")]
)
def test_units_are_refused_and_never_dropped(kind, says):
    x, g, v = np.ones(2), np.ones(2), kind([1.0, 2.0])
    opt = na.SGD(x)
    for name, call in {
        r"grads: ": lambda: opt.step(v),
        r"out: ": lambda: opt.step(g, out=v),
        r"params: ": lambda: na.SGD(v),
        r"params\['w'\]: ": lambda: na.SGD({"w": v}),
        r"g: ": lambda: na.sgd_update(x, v),
        r"bounds\[0\]: ": lambda: na.SGD(x, bounds=(v, None)),
        r"bounds: ": lambda: na.SGD(x, bounds=kind([[0.0, 1.0], [0.0, 2.0]])),
        r"x0: ": lambda: na.minimize(square, v, jac=True),
        r"x0\['w'\]: ": lambda: na.minimize(square, {"w": v}, jac=True),
        r"fun: its gradient: ": lambda: na.minimize(lambda x: (0.0, v), x, jac=True),
        r"jac: the gradient: ": lambda: na.minimize(lambda x: 0.0, x, jac=lambda x: v),
        r"fun: f ": lambda: na.minimize(lambda x: (kind(1.0), x), x, jac=True),
    }.items():
        with pytest.raises(TypeError, match=f"(?s)^{name}.*{says}"):
            call()
    with pytest.raises(TypeError, match=r"^lr: expected a number"):
        na.SGD(x, lr=v)
    with pytest.raises(TypeError, match=r"^lr: expected"):
        na.minimize_many(square, np.ones((2, 3)), jac=True, lr=v)
    np.testing.assert_array_equal(x, 1.0)


def test_a_quantity_without_a_unit_is_an_array():
    opt = na.SGD(np.ones(2), lr=1.0)
    opt.step(np.ones(2).view(Quantity))
    np.testing.assert_array_equal(opt.params, 0.0)


class Distributed:
    """An array of Dask or cuPyNumeric: a copy would compute it, or gather it from machines."""

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("it was gathered")

    __array_interface__ = property(__array__)


@pytest.mark.parametrize("module", ["dask.array.core", "cupynumeric._array.array"])
def test_distributed_arrays_are_gathered_by_the_user(module):
    x = type("ndarray", (Distributed,), {"__module__": module})()
    for name, call in {
        "x0": lambda: na.minimize(square, x, jac=True),
        r"x0\['a'\]": lambda: na.minimize(square, {"a": x}, jac=True),
        "x0 ": lambda: na.minimize_many(square, x, jac=True),
        " x0": lambda: na.least_squares_many(ignores_too, x, m=1),
        "params": lambda: na.SGD(x),
        "grads": lambda: na.SGD(np.ones(3)).step(x),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name.strip()}: .*\. Use numpy\.asarray\(x\)"):
            call()


# --- arrays in args of a compiled function -------------------------------------------------------


@numba.njit
def ignores(x, g, d):
    g[0] = 2 * x[0]
    return x[0] ** 2


@numba.njit
def ignores_too(x, r, d):
    r[0] = x[0]


@numba.njit
def reads_all(x, g, flags, waves, days, words, points, halves):
    number = waves[1].real if flags[0] else 0.0
    if days[1] > days[0] and words[0] == "ab":
        number += points[1]["a"] + halves[0]
    g[0] = 2 * (x[0] - number)
    return (x[0] - number) ** 2


@numba.njit
def subtracts(x, g, d):
    g[0] = 2 * (x[0] - d[0])
    return (x[0] - d[0]) ** 2


@numba.njit
def subtracts_too(x, r, d):
    r[0] = x[0] - d[0]


def calls_with(arg, fun=ignores, residuals=ignores_too):
    """The three functions with an argument: a call of each."""
    one, rows = np.ones(1), np.ones((2, 1))
    return (
        lambda: na.minimize(fun, one, (arg,)),
        lambda: na.minimize_many(fun, rows, (arg,)),
        lambda: na.least_squares_many(residuals, rows, (arg,), m=1),
    )


#: By the character of a dtype; all others work.
REMEDIES = {
    "e": r"got float16, .*a\.astype\(numpy\.float32\)",
    "g": r"a\.astype\(numpy\.float64\)",
    "G": r"a\.astype\(numpy\.complex128\)",
    "O": r"got object, .*a\.astype\(numpy\.float64\)",
    "V": r"got void32, .*a\.view\(numpy\.uint8\)",
}
SIZED = {"S": "S2", "U": "U2", "V": "V4", "M": "M8[s]", "m": "m8[s]"}


@pytest.mark.parametrize("char", np.typecodes["All"])
def test_every_dtype_of_numpy_works_in_args_or_is_refused_with_the_remedy(char):
    dtype = np.dtype(SIZED.get(char, char))
    array, says = np.zeros(2, dtype), REMEDIES.get(char)
    if says is None:
        assert numba.types.Array is type(type_of_args((array,))[0])
    for arg in (array, array[:1].reshape(()), (1.0, array), [array], array[0]):
        if says and not (char == "O" and arg is array[0]):
            for call in calls_with(arg):
                with pytest.raises(TypeError, match=rf"^args\[0\]: .*{says}"):
                    call()
    foreign = dtype.newbyteorder()
    if foreign != dtype and says is None:
        for call in calls_with(np.zeros(2, foreign)):
            with pytest.raises(TypeError, match=r"^args\[0\]: .*byte order.*newbyteorder"):
                call()


@pytest.mark.parametrize(
    ("arg", "says"),
    [
        (np.zeros(2, [("a", "f8"), ("b", "f2")]), r"field a\['b'\] of float16.*a\['b'\]\.astype"),
        (np.zeros(2, [("a", [("b", "g")])]), r"a\['a'\]\['b'\]\.astype\(numpy\.float64\)"),
        (np.zeros(2, [("a", "O", (3,))]), r"field a\['a'\] of object"),
        (np.zeros(2, [("a", "f8"), ("b", ">f8")]), "byte order"),
        (np.array(["ab", "c"], np.dtypes.StringDType()), r"a\.astype\('U'\)"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), r"masked array.* x\.filled\(0\) or x\.data"),
        ((1.0, np.ma.masked), "masked array"),
        (astropys([1.0, 2.0]), r"unit, m, would be lost: pass x\.value"),
        ((1, pints([1.0, 2.0])), r"metre, would be lost: pass x\.magnitude"),
        (2**64, "1844674407.* beyond the range of int64. Pass a float"),
    ],
)
def test_args_that_no_compiled_function_takes_are_named(arg, says):
    for call in calls_with(arg):
        with pytest.raises(TypeError, match=rf"^args\[0\]: .*{says}"):
            call()


def test_args_of_other_dtypes_reach_the_function():
    args = (
        np.array([True]), np.array([1j, 3 + 4j], np.complex64),
        np.array(["2020-01-01", "2020-01-03"], "M8[D]"), np.array(["ab"]),
        np.array([(0, 1), (2, 3)], [("a", "f8"), ("b", "i4")]).view(np.recarray),
        np.array([0.5], np.float32),
    )  # fmt: skip
    res = na.minimize(reads_all, np.zeros(1), args, lr=0.3)
    assert res.success
    assert res.x[0] == pytest.approx(5.5, abs=1e-4)


def test_a_field_of_records_may_be_called_unit():
    records = np.zeros(2, [("unit", "f8")]).view(np.recarray)
    assert type_of_args((records,))


def test_code_that_does_not_compile_names_arguments_that_are_no_real_numbers():
    calls = calls_with(np.zeros(1, "M8[s]"), subtracts, subtracts_too)
    for call in (calls[0], calls[2]):
        with pytest.raises(TypeError, match=r"args\[0\] is datetime64\[s\]: pass \(a - a\[0\]\) /"):
            call()

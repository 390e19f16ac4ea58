"""check_grad: wrong gradients are refused, and told from noise and kinks."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import numadam as na
from tests.minimize.gradients import (
    RIGHT,
    amplitudes,
    changed,
    decays,
    network,
    valley,
    waves,
)
from tests.minimize.objectives import square

SCALES = np.array([1.0, 1e6, 1e12])


def of_leaf(name, change):
    return lambda g, x: g | {name: change(g[name])}


def one_element(g, x):
    g[2] += 0.01 * abs(g).max()
    return g


def with_nan(g, x):
    g[1] = np.nan
    return g


def penalised(x):
    """A penalty that the gradient lacks."""
    f, g = square(x, 1.0)
    return f + 0.5 * 3.0 * float(x @ x), g


def shifted(g, x):
    return np.roll(g, 1)


def rows(x):
    """Depends on row and column, in an array that is not square."""
    a = np.arange(1.0, 13.0).reshape(3, 4)
    return float(np.sum(a * x)), a + 0 * x


WRONG = {
    "sign": (changed(valley, lambda g, x: -g), "valley", "it has the wrong sign"),
    "half": (changed(decays, lambda g, x: g / 2), "decays", "it is 0.5000 times what"),
    "mean": (changed(waves, lambda g, x: g / x.size), "waves", "it is 0.06250 times what"),
    "transposed": (changed(waves, lambda g, x: g.T), "waves", "it is transposed"),
    "twice": (
        changed(waves, lambda g, x: 2 * g.T),
        "waves",
        "transposed, and 2.000 times as large",
    ),
    "conjugate": (changed(amplitudes, lambda g, x: g.conj()), "amplitudes", "it is the conjugate"),
    "torch's half": (changed(amplitudes, lambda g, x: g / 2), "amplitudes", "0.5000 times"),
    "conjugate, half": (
        changed(amplitudes, lambda g, x: g.conj() / 2),
        "amplitudes",
        "it is the conjugate, and 0.5000 times as large",
    ),
    "imaginary part": (changed(amplitudes, lambda g, x: g.real + 0j), "amplitudes", ".imag"),
    "columns": (
        changed(rows, lambda g, x: g.reshape(-1).reshape(g.shape, order="F")),
        np.linspace(0, 1, 12).reshape(3, 4),
        "it is in Fortran order, column by column",
    ),
    "sign in one array": (
        changed(network, of_leaf("b", lambda b: -b)),
        "network",
        "in x0['b'] it has the wrong sign",
    ),
    "forgotten array": (
        changed(network, of_leaf("b", lambda b: 0 * b)),
        "network",
        "in x0['b'] it is 0, where fun changes",
    ),
    "transposed in one array": (
        changed(lambda p: (waves(p["w"])[0], {"w": waves(p["w"])[1]}), of_leaf("w", np.transpose)),
        {"w": RIGHT["waves"][1]},
        "it is transposed",
    ),
    "penalty": (penalised, np.linspace(-1, 1, 9), "it lacks 3 * x, such as that of a penalty"),
    "one element": (
        changed(decays, one_element),
        "decays",
        "1 of 4 elements (x0[2]). Worst",
    ),
    "NaN": (changed(decays, with_nan), "decays", "(x0[1]). Worst: x0[1] is nan by formula."),
    "shifted": (changed(valley, shifted), "valley", "it is moved by one place"),
    "shifted back": (changed(valley, lambda g, x: np.roll(g, -1)), "valley", "by one place"),
    "reversed": (changed(valley, lambda g, x: g[::-1]), "valley", "it is in reversed order"),
    "shuffled": (
        changed(valley, lambda g, x: g[[1, 3, 0, 2]]),
        "valley",
        "The gradient is wrong in 4 of 4 elements. ",
    ),
    "sum for a mean": (
        lambda x: (float(np.mean(np.sin(x))), np.cos(x)),
        np.linspace(0, 1, 7),
        "7.00",  # in float32 it may be 7.001
    ),
    "mean of 7": (
        changed(square, lambda g, x: g / 7),
        np.linspace(0.1, 1, 7),
        "1/7, as a mean in place of a sum would be",
    ),
    "constant": (
        changed(square, lambda g, x: g - 3),
        np.linspace(-1, 1, 9),
        "it lacks 3",
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_gradients_are_refused_and_named(kind, dtype):
    fun, x0, says = WRONG[kind]
    x0 = RIGHT[x0][1] if isinstance(x0, str) else x0
    if dtype == "float32":
        if isinstance(x0, dict):
            x0 = {name: one.astype("f4") for name, one in x0.items()}
        else:
            x0 = x0.astype("c8" if x0.dtype.kind == "c" else "f4")
    check = na.check_grad(fun, x0, jac=True)
    assert check.status == "wrong", check
    assert not check.ok
    assert says in check.message
    assert check.worst in check.wrong


def test_a_direction_alone_tells_the_factor():
    fun = changed(square, lambda g, x: 3 * g)
    check = na.check_grad(fun, np.linspace(1, 2, 5000), jac=True, elements=0, directions=4)
    assert "wrong in 4 of 4 random directions: it is 3.000 times" in check.message


def random_f(size):
    rng = np.random.default_rng(0)
    return lambda x: (square(x)[0] + size * rng.standard_normal(), square(x)[1])


def test_a_random_function_is_told():
    check = na.check_grad(random_f(1.0), np.ones(5), jac=True)
    assert check.status == "unclear"
    assert not check.ok
    assert "fun is random" in check.message


def test_small_noise_leaves_room_for_a_verdict():
    assert na.check_grad(random_f(1e-9), np.ones(5), jac=True).ok
    wrong = changed(random_f(1e-9), lambda g, x: -g)
    assert "wrong sign" in na.check_grad(wrong, np.ones(5), jac=True).message


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
        return
    assert check.status == "unclear"
    assert "fun is noisy, or not smooth" in check.message


def test_a_solver_with_errors():
    """An adjoint that is exact, beside a loose solver: right as far as can be seen."""

    def fun(x):
        run = solve_ivp(lambda t, y: -x * y, (0, 1), [1.0], rtol=1e-4, atol=1e-6)
        return float(run.y[0, -1]), -np.exp(-x)

    check = na.check_grad(fun, np.array([1.3]), jac=True)
    assert check.status != "wrong", check
    assert na.check_grad(changed(fun, lambda g, x: -g), np.array([1.3]), jac=True).status == "wrong"


def test_float32_inside_of_a_float64_function():
    def fun(x):
        x = x.astype("f4")
        return np.sum(np.sin(x)), np.cos(x)

    assert na.check_grad(fun, np.linspace(0.1, 2, 7), jac=True).ok
    wrong = changed(fun, lambda g, x: 2 * g)
    assert "it is 2.00" in na.check_grad(wrong, np.linspace(0.1, 1.2, 7), jac=True).message


def corners(x):
    return float(np.sum(abs(x))), np.sign(x)


def test_kinks():
    check = na.check_grad(corners, np.zeros(3), jac=True)
    assert check.status == "unclear"
    assert "fun has a kink at x0" in check.message
    # a subgradient
    assert na.check_grad(corners, np.array([0.0, 1.0, -2.0, 3.0]), jac=True).ok
    relu = changed(lambda x: (float(np.sum(np.maximum(x, 0))), 0 * x), lambda g, x: 1.0 * (x > 0))
    check = na.check_grad(relu, np.array([0.0, 1.0, -2.0, 3.0]), jac=True)
    assert check.ok
    assert "fun has a kink in 1 of them" in check.message
    # beyond both slopes
    check = na.check_grad(changed(corners, lambda g, x: g + 3.0), np.zeros(3), jac=True)
    assert check.status == "wrong"


def test_a_network_of_relus():
    rng = np.random.default_rng(1)
    rows, target = rng.standard_normal((200, 10)), rng.standard_normal(200)

    def fun(p):
        before = rows @ p["w"]
        r = np.maximum(before, 0) @ p["v"] - target
        back = 2 * np.outer(r, p["v"]) * (before > 0)
        return float(r @ r), {"w": rows.T @ back, "v": 2 * np.maximum(before, 0).T @ r}

    for dtype in ("f8", "f4"):
        x0 = {"w": rng.standard_normal((10, 8)).astype(dtype), "v": np.ones(8, dtype)}
        assert na.check_grad(fun, x0, jac=True).ok
        wrong = changed(fun, of_leaf("v", lambda v: v / 2))
        check = na.check_grad(wrong, x0, jac=True)
        assert "in x0['v'] it is 0.5" in check.message


def test_the_minimum_itself_says_nothing():
    check = na.check_grad(square, np.zeros(4), jac=True)
    assert (check.status, check.ok) == ("unclear", False)
    assert "the gradient is 0 at x0" in check.message


def test_f_that_is_not_finite():
    check = na.check_grad(lambda x: (np.nan, x), np.ones(2), jac=True)
    assert check.status == "unclear"
    assert check.message == "Cannot tell: fun is nan at x0."
    check = na.check_grad(lambda x: (0.0 if (x == 1).all() else np.inf, x), np.ones(2), jac=True)
    assert check.message == "Cannot tell: fun is not finite around x0."


@pytest.mark.parametrize("slope", [0.0, 3.0])
def test_stairs(slope):
    """The gradient of a count is 0 nearly everywhere, and of no use."""
    check = na.check_grad(lambda x: (float(np.floor(3 * x).sum()), slope + 0 * x), [1.5], jac=True)
    assert not check.ok


def test_a_penalty_is_no_word_for_one_wrong_element():
    def fun(x):
        return float(np.sum(np.sin(x / SCALES))), np.cos(x / SCALES) / SCALES * [1, 1, 2]

    check = na.check_grad(fun, SCALES, jac=True)
    assert check.wrong == ("x0[2]",)
    assert "penalty" not in check.message


def test_an_edge_beside_x0_is_named():
    def fun(x):
        return (np.nan if x[1] > 2 else float(x @ x)), 2 * x

    x0 = np.array([1.0, 2.0, 3.0])
    check = na.check_grad(fun, x0, jac=True)
    assert check.message.startswith("Cannot tell: fun is not finite near x0, where x0[1] is ")
    assert na.check_grad(fun, x0, jac=True, bounds=(None, 2)).ok

    def raising(x):
        if x[1] > 2:
            raise ValueError("too far")
        return float(x @ x), 2 * x

    with pytest.raises(ValueError, match="too far") as caught:
        na.check_grad(raising, x0, jac=True)
    assert "check_grad calls fun beside x0" in caught.value.__notes__[0]
    assert "bounds" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="too far") as caught:
        na.check_grad(raising, 3 * x0, jac=True)
    assert not hasattr(caught.value, "__notes__")


def test_an_x0_that_is_not_finite_is_named():
    check = na.check_grad(square, np.array([1.0, np.nan]), jac=True)
    assert check.message == "Cannot tell: x0[1] is nan."


def test_a_mean_in_place_of_a_sum_is_named():
    check = na.check_grad(lambda x: (np.mean(np.sin(x)), np.cos(x)), np.linspace(0, 1, 9), jac=True)
    assert "it is 9.000 times what" in check.message
    assert "as a sum in place of a mean of 9 would be" in check.message

"""Operations on dual numbers: the same operation on the values, and its partial derivatives."""

from __future__ import annotations

import cmath
import math
import operator
from typing import Any

import numpy as np
from numba import types
from numba.extending import (
    overload,
    overload_attribute,
    overload_method,
    register_jitable,
)

from numadam._derivatives.dual import (
    Dual,
    chain,
    imaginary_part,
    is_complex,
    is_dual,
    quotient,
    real_part,
    value,
)


def ratio(a, b):
    """Quotient that never raises, whatever a user's function does where b is 0."""


@overload(ratio)
def _ratio(a, b):
    if is_complex(b):
        return lambda a, b: a / b if b != 0.0 else complex(math.nan, math.nan)
    return lambda a, b: quotient(a, b)


# --- one argument --------------------------------------------------------------------------------


def _unary(functions: tuple[Any, ...], slope: Any, only_real: bool = False) -> None:
    """Define functions of one number by the slope ``slope(v, f)`` at v, where the value is f."""
    slope = register_jitable(slope)

    def define(function: Any) -> None:
        @overload(function)
        def of(x):
            def dual(x):
                v = value(x)
                f = function(v)
                return chain(f, slope(v, f), x, 0.0, 0.0)

            return dual if isinstance(x, Dual) and not (only_real and is_complex(x)) else None

    for function in functions:
        define(function)


def _same(*names: str) -> tuple[Any, ...]:
    """Functions of these names in `math`, in `cmath` and in NumPy."""
    homes = ((home, name) for name in names for home in (math, cmath, np))
    return tuple(dict.fromkeys(getattr(home, name) for home, name in homes if hasattr(home, name)))


_ROOT_PI, _LN_2, _LN_10 = 2.0 / math.sqrt(math.pi), math.log(2.0), math.log(10.0)


@register_jitable
def _sign(v):
    """Slope of abs: 0 at 0."""
    return 1.0 if v > 0.0 else (-1.0 if v < 0.0 else 0.0)


_unary((operator.neg, np.negative), lambda v, f: -1.0)
_unary((operator.pos, np.positive), lambda v, f: 1.0)
_unary((abs, np.abs, math.fabs, np.fabs), lambda v, f: _sign(v), only_real=True)
_unary((np.square,), lambda v, f: 2.0 * v)
_unary((np.reciprocal,), lambda v, f: -f * f)
_unary(_same("exp"), lambda v, f: f)
_unary(_same("exp2"), lambda v, f: f * _LN_2)
_unary(_same("expm1"), lambda v, f: np.exp(v))
_unary(_same("log"), lambda v, f: ratio(1.0, v))
_unary(_same("log2"), lambda v, f: ratio(1.0 / _LN_2, v))
_unary(_same("log10"), lambda v, f: ratio(1.0 / _LN_10, v))
_unary(_same("log1p"), lambda v, f: ratio(1.0, 1.0 + v))
_unary(_same("sqrt"), lambda v, f: ratio(0.5, f))
_unary(_same("cbrt"), lambda v, f: ratio(1.0, 3.0 * f * f))
_unary(_same("sin"), lambda v, f: np.cos(v))
_unary(_same("cos"), lambda v, f: -np.sin(v))
_unary(_same("tan"), lambda v, f: 1.0 + f * f)
_unary(_same("sinh"), lambda v, f: np.cosh(v))
_unary(_same("cosh"), lambda v, f: np.sinh(v))
_unary(_same("tanh"), lambda v, f: ratio(1.0, np.cosh(v)) * ratio(1.0, np.cosh(v)))
_unary(_same("asin", "arcsin"), lambda v, f: ratio(1.0, math.sqrt((1.0 - v) * (1.0 + v))))
_unary(_same("acos", "arccos"), lambda v, f: ratio(-1.0, math.sqrt((1.0 - v) * (1.0 + v))))
_unary(_same("atan", "arctan"), lambda v, f: 1.0 / (1.0 + v * v))
_unary(_same("asinh", "arcsinh"), lambda v, f: 1.0 / math.hypot(1.0, v))
_unary(_same("acosh", "arccosh"), lambda v, f: ratio(1.0, math.sqrt((v - 1.0) * (v + 1.0))))
_unary(_same("atanh", "arctanh"), lambda v, f: ratio(1.0, (1.0 - v) * (1.0 + v)))
_unary((math.erf,), lambda v, f: _ROOT_PI * math.exp(-v * v))
_unary((math.erfc,), lambda v, f: -_ROOT_PI * math.exp(-v * v))


# --- two arguments -------------------------------------------------------------------------------


def _binary(functions: tuple[Any, ...], slopes: Any) -> None:
    """Define functions of two numbers by the slopes ``slopes(u, v, f)`` by each of them."""
    slopes = register_jitable(slopes)

    def define(function: Any) -> None:
        @overload(function)
        def of(x, y):
            def dual(x, y):
                u, v = value(x), value(y)
                f = function(u, v)
                a, b = slopes(u, v, f)
                return chain(f, a, x, b, y)

            return dual if is_dual(x, y) else None

    for function in functions:
        define(function)


def _quotient(u, v, f):
    a = ratio(1.0, v)
    return a, -f * a


def _arctan(u, v, f):
    length = math.hypot(u, v)
    return ratio(ratio(v, length), length), -ratio(ratio(u, length), length)


def _length(u, v, f):
    """Slopes of hypot: 0 at 0."""
    return (ratio(u, f), ratio(v, f)) if f != 0.0 else (0.0, 0.0)


def _chosen(u, v, f):
    """Slopes of a minimum: the first number where both are equal."""
    return (1.0, 0.0) if f == u else (0.0, 1.0)


_binary((operator.add, operator.iadd, np.add), lambda u, v, f: (1.0, 1.0))
_binary((operator.sub, operator.isub, np.subtract), lambda u, v, f: (1.0, -1.0))
_binary((operator.mul, operator.imul, np.multiply), lambda u, v, f: (v, u))
_binary((operator.truediv, np.divide), _quotient)
# the quotient of what is left of u is whole, that of u may round to the next whole number
_binary((operator.mod, np.mod, np.fmod), lambda u, v, f: (1.0, -np.rint(ratio(u - f, v))))
_binary((math.atan2, np.arctan2), _arctan)
_binary((math.hypot, np.hypot), _length)
_binary((math.copysign, np.copysign), lambda u, v, f: (1.0 if f == u else -1.0, 0.0))
_binary((np.minimum, np.maximum, np.fmin, np.fmax), _chosen)


@register_jitable
def _power_slope(v, p, f):
    """Slope of ``f = v ** p`` by v."""
    if p == 0.0:
        return 0.0
    if 1e-30 < abs(f) < 1e30 and abs(v) > 1e-30:  # else a quotient has few digits
        return ratio(f, v) * p
    return p * math.pow(np.float64(v), p - 1.0)


@register_jitable
def _exponent_slope(v, f):
    """Slope of ``f = v ** p`` by p."""
    if v == 0.0 and f == 0.0:
        return 0.0
    return f * math.log(v)


def _power(function: Any) -> None:
    @overload(function, prefer_literal=True)
    def of(x, p):
        if not is_dual(x, p):
            return None
        if isinstance(p, types.IntegerLiteral):
            constant = p.literal_value
            less = constant - 1 if constant else 0

            def dual(x, p):  # no power is computed by logarithms
                v = value(x)
                return chain(function(v, constant), constant * v**less, x, 0.0, 0.0)

        elif isinstance(p, (types.Integer, types.Boolean)):

            def dual(x, p):
                v = value(x)
                slope = 0.0 if p == 0 else p * v ** (p - 1)
                return chain(function(v, p), slope, x, 0.0, 0.0)

        elif is_complex(x, p):

            def dual(x, p):
                u, v = value(x), value(p)
                f = function(u, v)
                return chain(f, v * u ** (v - 1.0), x, f * np.log(u), p)

        elif isinstance(p, types.Float):

            def dual(x, p):
                v = value(x)
                f = function(v, p)
                return chain(f, _power_slope(v, p, f), x, 0.0, 0.0)

        else:

            def dual(x, p):
                u, v = value(x), value(p)
                f = function(u, v)
                return chain(f, _power_slope(u, v, f), x, _exponent_slope(u, f), p)

        return dual


for _function in (operator.pow, pow, math.pow, np.power):
    _power(_function)


def _immediate(function: Any, plain: Any) -> None:
    """Define ``x += y`` and its like."""

    @overload(function)
    def of(x, y):
        return (lambda x, y: plain(x, y)) if is_dual(x, y) else None


for _name in ("truediv", "floordiv", "mod", "pow"):
    _immediate(getattr(operator, "i" + _name), getattr(operator, _name))


# --- what has no derivative, or 0 between its jumps ----------------------------------------------


def _constant(function: Any) -> None:
    """Define a function whose value alone counts."""

    @overload(function)
    def of_one(x):
        return (lambda x: function(value(x))) if isinstance(x, Dual) else None


def _constant_of_two(function: Any) -> None:
    @overload(function)
    def of_two(x, y):
        return (lambda x, y: function(value(x), value(y))) if is_dual(x, y) else None


_STEP_FUNCTIONS = (
    "floor",
    "ceil",
    "trunc",
    "rint",
    "sign",
    "isnan",
    "isinf",
    "isfinite",
    "signbit",
)
for _function in (*_same(*_STEP_FUNCTIONS), round, bool, operator.not_):
    _constant(_function)
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "floordiv"):
    _constant_of_two(getattr(operator, _name))
_constant_of_two(np.floor_divide)


# --- choices -------------------------------------------------------------------------------------


def _choice(function: Any, goes_before: Any) -> None:
    @overload(function)
    def of_two(x, y):
        return (lambda x, y: y if goes_before(y, x) else x) if is_dual(x, y) else None

    @overload(function)
    def of_more(x, y, z, *more):
        if not is_dual(x, y, z, *more):
            return None
        return lambda x, y, z, *more: function(function(x, y), z, *more)


_choice(min, operator.lt)
_choice(max, operator.gt)


@overload(float)
def _float(x):
    return (lambda x: chain(float(value(x)), 1.0, x, 0.0, 0.0)) if isinstance(x, Dual) else None


# --- complex numbers -----------------------------------------------------------------------------


def _of_complex(functions: tuple[Any, ...], function_of_parts: Any) -> None:
    """Define functions of one complex number by its real and imaginary part."""
    function_of_parts = register_jitable(function_of_parts)

    def define(function: Any) -> None:
        @overload(function)
        def of(x):
            if isinstance(x, Dual) and is_complex(x):
                return lambda x: function_of_parts(real_part(x), imaginary_part(x))
            return None

    for function in functions:
        define(function)


_of_complex((abs, np.abs), lambda a, b: math.hypot(a, b))
_of_complex((cmath.phase,), lambda a, b: math.atan2(b, a))
_of_complex((np.angle,), lambda a, b: 1.0 * np.arctan2(b, a))  # float64 always
_of_complex((np.real,), lambda a, b: a)
_of_complex((np.imag,), lambda a, b: b)
_of_complex((np.conj,), lambda a, b: complex(a, -b))


@overload(complex)
def _complex(x, y):
    def dual(x, y):
        return chain(complex(value(x), value(y)), 1.0, x, 1.0j, y)

    return dual if is_dual(x, y) else None


@overload_attribute(Dual, "real")
def _real_of(x):
    return (lambda x: real_part(x)) if is_complex(x) else (lambda x: x)


@overload_attribute(Dual, "imag")
def _imaginary_of(x):
    return (lambda x: imaginary_part(x)) if is_complex(x) else (lambda x: value(x).imag)


@overload_method(Dual, "conjugate")
def _conjugate_of(x):
    return (lambda x: complex(x.real, -x.imag)) if is_complex(x) else (lambda x: x)

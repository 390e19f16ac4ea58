"""Scalars of a step: powers of the betas, running products, bias corrections."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._core.rule import named
from numadam._core.synonyms import library
from numadam._jit.functions import cast, jit_once, linked
from numadam._jit.loops import compiled_loop

# --- scalars of one step -------------------------------------------------------------------------
# A row of scalars holds those of the rule's formula (`RuleSpec.scalar_type`), then those of the
# loop (`GroupScalars`). An array adds the two factors of its clip by norm (`LoopScalars`).


class LoopScalars(NamedTuple):
    """The scalars `k` of a loop."""

    scale: float  # of the gradient: its sign, and `pre` of the clip
    clip: float  # largest element of the gradient, times `pre`
    decay: float  # L2 decay
    lost: float  # share of the parameters that decoupled decay takes
    per_element: float  # the part of it that goes with a step size per element
    low: float  # scalar bounds
    high: float
    weight: float  # of the new parameters in the average
    factor: float  # of the gradient, for the clip by norm: with `pre`, which keeps it normal
    zero: float


#: The first of them, which all arrays of a group share.
GroupScalars = named("GroupScalars", LoopScalars._fields[:8])


def tiny(dtype: np.dtype[Any]) -> float:
    """Below it a first moment becomes 0: denormal numbers slow many CPUs down."""
    return float(np.finfo(dtype).smallest_normal)


@register_jitable
def is_due(t: int) -> bool:
    """Whether denormal numbers that stay become 0 at step t: at one in 64, 89 apart at most.

    By multiples of the golden ratio: rows that are visited at every k-th step meet one, too.
    """
    return (t * 2654435769) & 4294967295 < 67108864


def loop_start(plan: Plan) -> int:
    """Place of the loop's scalars in a row, behind those of the formula."""
    return len(plan.rule.scalar_type._fields)


def width_of(plan: Plan) -> int:
    """Scalars of one row."""
    return loop_start(plan) + len(GroupScalars._fields)


@functools.cache
def reader(kind: Any, first: int) -> Any:
    """``read(row)``: a named tuple of the numbers of a contiguous row from place `first` on."""
    size = len(kind._fields)

    def read(typingctx: Any, row: Any) -> Any:
        result = types.NamedUniTuple(row.dtype, size, kind)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(row)(context, builder, args[0]).data
            places = [ir.Constant(cgutils.intp_t, first + k) for k in range(size)]
            items = [builder.load(builder.gep(data, [place])) for place in places]
            return context.make_tuple(builder, result, items)

        return result(row), codegen

    return intrinsic(read)


@register_jitable
def f32(x):
    """Round to float32, and go on in float64 (`float` of a float32 is one for Numba)."""
    return np.float64(np.float32(x))


@register_jitable
def ema_at(ema, warmup, debias, t, late):
    """The decay of the average at step t; `late`: it begins as the parameters after the first."""
    if warmup != 0.0:
        return min(ema, (1.0 + t) / (10.0 + t))
    if late and t == 1.0 and debias == 0.0:
        return 0.0
    return ema


def make_loop_scalars(like: str, wrap: Any) -> Any:
    """``loop_scalars(row, lr, t, elementwise)``: the loop's own scalars of a group at step t.

    In float64. `row` is a `ControlRow`.
    """
    late = library(like).late_average

    def loop_scalars(row, lr, t, elementwise):
        decay, ema = row.weight_decay, row.ema
        lost, per_element = decay, 0.0
        if row.decay_free == 0.0:
            lost = lr * decay
            if elementwise != 0.0:
                lost, per_element = 0.0, lost
        if row.ema_warmup != 0.0:
            ema = min(ema, (1.0 + t) / (10.0 + t))
        elif late and t == 1.0 and row.ema_debias == 0.0:
            ema = 0.0
        return GroupScalars(
            scale=row.sign,
            clip=row.clip_value,
            decay=decay,
            lost=lost,
            per_element=per_element,
            low=row.low,
            high=row.high,
            weight=1.0 - ema,
        )

    return wrap(loop_scalars)


def with_clip(k, pre, factor, zero):
    """The scalars of a loop: those of a group, and the clip factor of an array in two steps."""
    return LoopScalars(
        scale=k.scale * pre,
        clip=k.clip * pre,
        decay=k.decay,
        lost=k.lost,
        per_element=k.per_element,
        low=k.low,
        high=k.high,
        weight=k.weight,
        factor=factor,
        zero=zero,
    )


def make_scalars(plan: Plan) -> Any:
    """``scalars(row, pre, factor) -> h, k``: of an array, from the row of its group.

    `pre` and `factor` are its clip factor in two steps. Where both are the constant 1, the compiler
    drops the two multiplications.
    """
    read_h, read_k = reader(plan.rule.scalar_type, 0), reader(GroupScalars, loop_start(plan))
    clipped, one = linked(with_clip), plan.real.type(1)

    def scalars(row, pre, factor):
        return cast(read_h(row), one), cast(clipped(read_k(row), pre, factor, 0.0), one)

    return linked(scalars)


def _none(row):
    return None


def make_fill_row(plan: Plan) -> Any:
    """``fill_row(out, row, q, lr, t)``: the scalars of step t from a row of the control block.

    `q` is the row of products up to the step.
    """
    scalars, small = linked(plan.scalars), tiny(plan.real)
    loop_scalars = make_loop_scalars(plan.like, linked)
    control, kind = reader(op.ControlRow, 0), plan.rule.product_type
    products = linked(_none) if kind is None else reader(kind, len(plan.products))
    hypers, size = reader(plan.rule.hyper_type, op.RULE), loop_start(plan) - 2
    per_element, one = float(plan.elementwise), 1.0
    count = len(GroupScalars._fields)

    def fill_row(out, row, q, lr, t):
        shared = control(row)
        rate = shared.lr if shared.lr == shared.lr else lr
        h = cast(scalars(hypers(row), products(q), rate, t), one)
        k = loop_scalars(shared, rate, t, per_element)
        for i in range(size):
            out[i] = h[i]
        out[size] = small * shared.flush
        out[size + 1] = 0.0
        for i in range(count):
            out[size + 2 + i] = k[i]

    return linked(fill_row, forceinline=True)


# --- powers beta^t of the bias corrections -------------------------------------------------------
# A library's `pow` differs from platform to platform, and takes 12 to 40 ns. Here a number is an
# integer of 128 bits, its highest bit set, times a power of two, as (high, low, exponent): ``(high
# 2^64 + low) 2^(exponent - 128)``. A product errs by less than 2^-125 of it, so after t of them, or
# the 2 log2(t) of repeated squaring, the double next to it is the right one but for about one case
# in 2^40 (as long as t < 2^30). They are operations on integers, which no compiler contracts.

#: Numbers of 8 bytes in which `make_power` keeps the last power: beta, t, high, low, exponent.
KEPT = 5

#: Smaller powers are 0: nothing that adds them to 1 can tell. They are, where beta^t <
#: exp(-(1 - beta) t) < exp(-89).
_LEAST, _CUT = 2.0**-128, 89.0

_WORD, _WIDE, _DOUBLE = ir.IntType(64), ir.IntType(128), ir.DoubleType()


def _in_python(beta: float, t: float, kept: Any, place: int) -> float:
    """``power``, for interpreted code."""
    from decimal import Context, Decimal  # compiled code does not need it

    if beta < _LEAST or (1.0 - beta) * t > _CUT:
        return 0.0
    power = float(Context(prec=60).power(Decimal(beta), int(t)))
    return power if power >= _LEAST else 0.0


# For compiled code, in LLVM's language: in Numba's it would add 0.15 s to the first step.


def _multiply(builder: Any, x: Any, y: Any) -> list[Any]:
    (a, b), (c, d) = ([builder.zext(word, _WIDE) for word in words[:2]] for words in (x, y))
    product = builder.mul(a, c)
    for cross in (builder.mul(a, d), builder.mul(b, c)):
        product = builder.add(product, builder.lshr(cross, _WIDE(64)))
    normal = builder.icmp_signed("<", product, _WIDE(0))  # its highest bit is set
    product = builder.select(normal, product, builder.shl(product, _WIDE(1)))
    exponent = builder.add(builder.add(x[2], y[2]), builder.select(normal, _WORD(0), _WORD(-1)))
    high = builder.trunc(builder.lshr(product, _WIDE(64)), _WORD)
    return [high, builder.trunc(product, _WORD), exponent]


def _load(builder: Any, places: Sequence[Any]) -> list[Any]:
    return [builder.load(place) for place in places]


def _store(builder: Any, words: Sequence[Any], places: Sequence[Any]) -> None:
    for word, place in zip(words, places, strict=True):
        builder.store(word, place)


def _raise(builder: Any, power: Any, base: Any, left: Any) -> None:
    """Multiply a power by ``base^left``, by repeated squaring; all are places in memory."""
    loop, squaring, after = map(builder.append_basic_block, ("power", "square", "raised"))
    builder.branch(loop)
    builder.position_at_end(loop)
    count = builder.load(left)
    with builder.if_then(builder.trunc(count, ir.IntType(1))):  # odd
        product = _multiply(builder, _load(builder, power), _load(builder, base))
        _store(builder, product, power)
    count = builder.lshr(count, _WORD(1))
    builder.store(count, left)
    builder.cbranch(builder.icmp_unsigned("==", count, _WORD(0)), after, squaring)
    builder.position_at_end(squaring)
    square = _load(builder, base)
    _store(builder, _multiply(builder, square, square), base)
    builder.branch(loop)
    builder.position_at_end(after)


def _find(builder: Any, beta: Any, t: Any, last: Any) -> list[Any]:
    """``beta^t``: from the power at `last`, where that is this one or the one before."""
    bits = builder.bitcast(beta, _WORD)
    exponent = builder.sub(builder.lshr(bits, _WORD(52)), _WORD(1022))
    number = builder.or_(builder.shl(bits, _WORD(11)), _WORD(1 << 63)), _WORD(0), exponent
    power, base = ([cgutils.alloca_once_value(builder, x) for x in number] for _ in range(2))
    left = cgutils.alloca_once_value(builder, builder.sub(t, _WORD(1)))
    if last is None:
        _raise(builder, power, base, left)
        return _load(builder, power)
    places = [builder.gep(last, [_WORD(k)]) for k in range(KEPT)]
    known, known_t, *kept = _load(builder, places)
    gap = builder.sub(t, known_t)
    near = builder.and_(
        builder.icmp_unsigned("==", known, bits), builder.icmp_unsigned("<=", gap, _WORD(1))
    )
    with builder.if_then(near):
        _store(builder, (*kept, gap), (*power, left))
    _raise(builder, power, base, left)
    found = _load(builder, power)
    _store(builder, (bits, t, *found), places)
    return found


def _round(builder: Any, high: Any, low: Any, exponent: Any) -> Any:
    """The double next to a number of at least 2^-128: rounded once, from 63 bits."""
    rest = builder.zext(builder.icmp_unsigned("!=", low, _WORD(0)), _WORD)
    odd = builder.or_(builder.and_(high, _WORD(1)), rest)  # stands for all bits behind
    rounded = builder.sitofp(builder.or_(builder.lshr(high, _WORD(1)), odd), _DOUBLE)
    bits = builder.shl(builder.add(exponent, _WORD(1023 - 63)), _WORD(52))
    power = builder.fmul(rounded, builder.bitcast(bits, _DOUBLE))
    tiny = builder.icmp_signed("<", exponent, _WORD(-127 & (2**64 - 1)))
    return builder.select(tiny, _DOUBLE(0.0), power)


def _compiled(typingctx: Any, beta: Any, t: Any, kept: Any, place: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        beta, t, array, place = args
        last = None
        if isinstance(kept, types.Array):
            first = context.make_array(kept)(context, builder, array).data
            last = builder.bitcast(builder.gep(first, [place]), _WORD.as_pointer())
        found = cgutils.alloca_once_value(builder, _DOUBLE(0.0))
        gone = builder.fmul(builder.fsub(_DOUBLE(1.0), beta), t)
        seen = builder.and_(
            builder.fcmp_ordered(">=", beta, _DOUBLE(_LEAST)),
            builder.fcmp_ordered("<=", gone, _DOUBLE(_CUT)),
        )
        with builder.if_then(seen):
            parts = _find(builder, beta, builder.fptosi(t, _WORD), last)
            builder.store(_round(builder, *parts), found)
        return builder.load(found)

    return types.float64(types.float64, types.float64, kept, types.int64), codegen


_in_llvm = intrinsic(_compiled)


def make_power(wrap: Any) -> Any:
    """``power(beta, t, kept, place)``: beta^t for beta in [0, 1] and t a whole number from 1 on.

    `kept` is a contiguous float64 array, or None. From `place` on it has the bits of the last
    power, zeros before the first. From there the next is one multiplication, 5 ns, where one
    from the beginning takes 35 to 80. The result is the same.
    """
    for_cpu = wrap in (jit_once, linked)
    return _in_llvm if for_cpu and not config.DISABLE_JIT else _in_python


# --- products over the steps ---------------------------------------------------------------------
# A group has a row of numbers for them, in memory that keeps from step to step::
#
#   [those carried, before step t | all, up to step t | the last powers, as `make_power` keeps them]


def _fields(plan: Plan) -> tuple[str, ...]:
    """Names of the products over the steps that the rule's scalars are computed from."""
    kind = plan.rule.product_type
    return () if kind is None else kind._fields


def product_width(plan: Plan) -> int:
    """Numbers in a row of products."""
    return len(plan.products) + len(_fields(plan)) + KEPT * len(plan.rule.powers)


def start_products(plan: Plan, groups: int) -> np.ndarray:
    """Rows of products before the first step, one for each group."""
    rows = np.zeros((groups, product_width(plan)))
    rows[:, : len(plan.products)] = 1.0
    return rows


def make_products(plan: Plan) -> Any:
    """``products(q, row, t)``: the products up to step t in a row q, from those before it.

    `row` is that of the control block. Where none is carried, steps need not come in order.
    """
    own, carried, fields = plan.own_products, len(plan.products), _fields(plan)
    if fields[:carried] != plan.products:
        raise ValueError(f"{plan.rule.name}: {plan.products} are not the first of {fields}.")
    powers = _make_powers(plan) if len(fields) > len(own) else linked(_nothing)
    if not own:
        return powers
    advance, before = linked(plan.advance), reader(named("Products", own), 0)
    hypers, count = reader(plan.rule.hyper_type, op.RULE), len(own)

    def products(q, row, t):
        new = advance(hypers(row), before(q), t)
        for i in range(count):
            q[carried + i] = new[i]
        powers(q, row, t)

    return linked(products)


def _make_powers(plan: Plan) -> Any:
    """``powers(q, row, t)``: the products of hyperparameters, in place."""
    own, fields, rule = plan.own_products, _fields(plan), plan.rule
    names = [hyper.name for hyper in rule.hypers]
    # where they lie in a row of the control block
    columns = tuple(op.RULE + names.index(name) for name in rule.powers)
    first, count, kept = len(own), len(columns), len(plan.products) + len(fields)
    place, changing, exact = kept - count, len(plan.products) > first, plan.power is None
    power = make_power(linked)
    of_library = power if exact else linked(plan.power)

    def powers(q, row, t):
        for k in range(count):
            beta = row[columns[k]]
            if changing:
                q[place + k] = q[first + k] * beta
            elif exact:
                q[place + k] = power(beta, t, q, kept + KEPT * k)
            else:
                q[place + k] = of_library(beta, t)

    return linked(powers)


def make_advance_row(plan: Plan) -> Any:
    """``advance_row(q)``: the step whose products `q` has is taken: those carried move on."""
    carried = len(plan.products)

    def advance_row(q):
        for i in range(carried):
            q[i] = q[carried + i]

    return linked(advance_row)


def make_products_at(plan: Plan) -> Any:
    """``products_at(q, row, t, taken) -> taken``: the products up to any step t in a row q.

    `q` has those after `taken` steps, fewer than t: zeros after none. As for powers, what is below
    2^-128 is as good as 0, and its product is not formed on.
    """
    find, advance, carried = make_products(plan), make_advance_row(plan), len(plan.products)

    def products_at(q, row, t, taken):
        if taken == 0.0:
            for i in range(carried):
                q[i] = 1.0
        matters = carried > 0
        while matters and taken < t - 1.0:
            taken += 1.0
            find(q, row, taken)
            advance(q)
            matters = False
            for i in range(carried):
                matters = matters or q[i] >= _LEAST
        find(q, row, t)
        return taken

    return linked(products_at)


def products_after(
    plan: Plan, steps: int, control: np.ndarray, refresh: Callable[[int], None] | None
) -> np.ndarray:
    """Rows of products after so many steps.

    `refresh` brings a step's numbers into `control`; None where they never change.
    """
    rows = start_products(plan, len(control))
    signature = types.void(types.float64[::1], types.float64[::1], types.int64, types.int64)
    walk = compiled_loop(f"{plan.name}-products", lambda: _make_walk(plan), signature).serial
    spans = [(0, steps)] if refresh is None else itertools.pairwise(range(steps + 1))
    for first, last in spans:
        if refresh is not None:
            refresh(first)
        for q, row in zip(rows, control, strict=True):
            walk(q, row, first, last)
    return rows


def _make_walk(plan: Plan) -> Any:
    """``walk(q, row, first, last)``: the products of the steps from one to another, in place."""
    find, advance = make_products(plan), make_advance_row(plan)

    def walk(q, row, first, last):
        for step in range(first, last):
            find(q, row, float(step + 1))
            advance(q)

    return (walk,)


def _nothing(q, row, t):
    return None

"""One parameter's step: the rule's formula and the options around it, for every loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numadam._core import plan as pl
from numadam._core.plan import STATE_SLOTS, Plan
from numadam._core.rule import RuleSpec
from numadam._core.text import parameters_of

# --- formulas of rules as the loops call them ----------------------------------------------------

_ADAPTER = """
def make(element):
    def adapter(p, g, gg, {slots}, h):
        {results} = element({parameters})
        return step, {slots}
    return adapter
"""


def make_element(rule: RuleSpec, formula: Callable[..., Any], wrap: Any) -> Any:
    """``element(p, g, gg, s0, s1, s2, h) -> (step, s0, s1, s2)``: any formula, as loops call it.

    It is written as source: Numba compiles no call whose number of arguments is found out.
    """
    slots = {name: f"s{k}" for k, name in enumerate(rule.state)}
    source = _ADAPTER.format(
        slots=", ".join(f"s{k}" for k in range(STATE_SLOTS)),
        parameters=", ".join(slots.get(name, name) for name in parameters_of(rule, formula)),
        results=", ".join(["step", *slots.values()]),
    )
    scope: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, f"<the formula of {rule.name}>", "exec"), scope)
    return wrap(scope["make"](wrap(formula)))


# --- element update ------------------------------------------------------------------------------
# Loops hold no arithmetic: it is here and in the rules. The order of a step is the same for every
# rule: maximize, mask at active bounds, norm and guard, clip by value, clip by norm, L2 decay, the
# rule, decoupled decay, bounds, average.
#
# An array or number that no option needs is ``None``, and Numba prunes its branches. It does so
# only for an argument of a function, which is why so many steps are functions of their own.
#
# A loop vectorises only if every load comes before the first condition: the functions read all of
# an element, compute, and then store. Scalars (`h`, `k`) are named tuples of numbers in registers,
# not in memory.

#: ``wrap(function)`` compiles it for the target, under a symbol of its own.
Wrap = Callable[[Callable[..., Any]], Any]


def _item(a, i, scalar):
    return a[i]


def _scalar(a, i, scalar):
    return scalar


def _nothing(a, i, scalar):
    return None


def _there(a, i):
    """``a[i]`` of an array that is there. For Numba `_at` may be None, and ``m or p`` fails."""
    return a[i]


def _absent(a, i):
    return None


def _at(a, i):
    """``a[i]``, or None where the array is absent (pruned when compiled)."""
    if a is None:
        return None
    return a[i]


def put(a, i, x):
    """``a[i] = x``, or nothing where the array is absent (pruned when compiled)."""
    if a is not None:
        a[i] = x


def _make_bound(plan: Plan, wrap: Wrap) -> Any:
    """``bound(array, i, scalar)``: the bound of element i, or None."""
    return wrap({"array": _item, "scalar": _scalar, "": _nothing}[plan.bounds])


def _effective(x, y, low, high, limit, k):
    """Bounds' mask and clip by value of the gradient `y` (NaN stays)."""
    if limit is None:
        return y
    most, least = limit, -limit
    if low is not None:
        # At an active bound, zero the component that points outward; otherwise the moments wind up
        # and keep x on the bound. Written as clip limits: twice as fast as branching on y, and a
        # load behind a branch would stop the norm loop from vectorising.
        if x <= low:
            most = k.zero
        if x >= high:
            least = k.zero
    if y > most:
        y = most
    if y < least:
        y = least
    return y


def _shrunk(y, x, decay, k):
    """Clip by norm; L2 decay."""
    y = y * k.factor
    return y if decay is None else y + decay * x


def whole_step(x, step, rate, lost, k):
    """The rule's step with a step size per element and decoupled decay.

    Decay and step are added before they are subtracted from x: one rounding. Shrinking x first,
    ``p*(1 - lr*wd)``, had 40 times the error after 2000 steps in float32 with lr = 1e-3 and
    weight_decay = 1e-4.
    """
    if rate is None:
        return step if lost is None else step + lost * x
    if lost is None:
        return step * rate
    return step * rate + (lost + rate * k.per_element) * x


def _bounded(x, low, high):
    if low is not None:
        if x < low:
            x = low
        if x > high:
            x = high
    return x


def make_gradient(plan: Plan, wrap: Wrap) -> Any:
    """``gradient(i, x, g, low, high, limit, k)``: of element i, before the clip by norm.

    `x` is its parameter, which decides whether a bound is active, and `limit` clips by value.
    """
    shape, bound = wrap(_effective), _make_bound(plan, wrap)

    def gradient(i, x, g, low, high, limit, k):
        lo, hi = bound(low, i, k.low), bound(high, i, k.high)
        return shape(x, g[i] * k.scale, lo, hi, limit, k)

    return wrap(gradient)


def make_norm_gradient(plan: Plan, wrap: Wrap) -> Any:
    """``gradient(i, x, g, low, high, k)``: the gradient whose norm is taken."""
    gradient, no_limit = make_gradient(plan, wrap), plan.real.type(np.inf)
    if not plan.bounds:

        def unbounded(i, x, g, low, high, k):
            return gradient(i, None, g, low, high, None, k)

        return wrap(unbounded)

    def bounded(i, x, g, low, high, k):
        return gradient(i, x[i], g, low, high, no_limit, k)

    return wrap(bounded)


def _make_prepare(plan: Plan, wrap: Wrap) -> Any:
    """``prepare(...) -> x, y``: parameter i, and the gradient as the rule gets it."""
    gradient, shrunk = make_gradient(plan, wrap), wrap(_shrunk)
    decay = wrap(_scalar if plan.decay == "l2" else _nothing)

    def prepare(i, p, g, low, high, k):
        x = p[i]
        y = gradient(i, x, g, low, high, k.clip, k)
        return x, shrunk(y, x, decay(None, i, k.decay), k)

    return wrap(prepare)


def _make_finish(plan: Plan, wrap: Wrap) -> Any:
    """``finish(...)``: write the new parameter and its average, or the direction.

    `r` is the element's index in the array of step sizes.
    """
    fetch, store = wrap(_at), wrap(put)
    decayed, bounded, follow = wrap(whole_step), wrap(_bounded), _make_followed(plan, wrap)
    loses = wrap(_scalar if plan.decay == "decoupled" else _nothing)
    bound = _make_bound(plan, wrap)

    def finish(i, r, x, step, p, out, average, low, high, rate, k):
        step = decayed(x, step, fetch(rate, r), loses(None, i, k.lost), k)
        lo, hi = bound(low, i, k.low), bound(high, i, k.high)
        if out is None:
            new = bounded(x - step, lo, hi)
            p[i] = new
            store(average, i, follow(fetch(average, i), new, k))
        elif lo is None:
            out[i] = -step
        else:
            out[i] = bounded(x - step, lo, hi) - x

    return wrap(finish)


def _make_followed(plan: Plan, wrap: Wrap) -> Any:
    """``followed(average, x, k)``: the running average after the new parameter x.

    Unchanged bit for bit where they are equal.
    """
    one = plan.real.type(1)

    def followed(average, x, k):
        if average is None:
            return None
        if k.weight == one:  # no memory, also of an average that is infinite
            return x
        return average + k.weight * (x - average)

    return wrap(followed)


def _make_reads(plan: Plan, wrap: Wrap) -> list[Any]:
    """``read(a, i)`` of each state array: None only where the plan has no such array."""
    return [wrap(_there if plan.has(slot) else _absent) for slot in (pl.S0, pl.S1, pl.S2)]


def make_element_update(plan: Plan, wrap: Wrap) -> Any:
    """``update(i, p, g, s0, s1, s2, out, average, low, high, rate, h, k)``.

    Element i of every array of a step (`plan.P` ... `plan.RATE`), with the scalars of the formula
    and of the loop.
    """
    if plan.modulus:
        return _make_pair(plan, wrap)
    prepare, finish = _make_prepare(plan, wrap), _make_finish(plan, wrap)
    element = make_element(plan.rule, plan.element(), wrap)
    write = wrap(put)
    read0, read1, read2 = _make_reads(plan, wrap)

    def update(i, p, g, s0, s1, s2, out, average, low, high, rate, h, k):
        x, y = prepare(i, p, g, low, high, k)
        step, a, b, c = element(x, y, y * y, read0(s0, i), read1(s1, i), read2(s2, i), h)
        write(s0, i, a)
        write(s1, i, b)
        write(s2, i, c)
        finish(i, i, x, step, p, out, average, low, high, rate, k)

    return wrap(update)


def _skip(a, i, x):
    return None


def _make_pair(plan: Plan, wrap: Wrap) -> Any:
    """Element update of one complex number taken whole: the formula runs for both of its parts.

    Both get the squared modulus, so both compute the same second moment; it is stored once, by the
    real part. The state of both parts is read before the first is written.
    """
    prepare, finish = _make_prepare(plan, wrap), _make_finish(plan, wrap)
    element = make_element(plan.rule, plan.element(), wrap)
    write, skip = wrap(put), wrap(_skip)
    read0, read1, read2 = _make_reads(plan, wrap)
    singles = [plan.whole(slot) for slot in (pl.S0, pl.S1, pl.S2)]
    w0, w1, w2 = (1 if single else 2 for single in singles)
    o0, o1, o2 = (0 if single else 1 for single in singles)
    write0, write1, write2 = (skip if single else write for single in singles)

    def update(i, p, g, s0, s1, s2, out, average, low, high, rate, h, k):
        re, im = 2 * i, 2 * i + 1
        x, y = prepare(re, p, g, low, high, k)
        u, w = prepare(im, p, g, low, high, k)
        square = y * y + w * w
        a0, b0, c0 = read0(s0, w0 * i), read1(s1, w1 * i), read2(s2, w2 * i)
        a1, b1, c1 = read0(s0, w0 * i + o0), read1(s1, w1 * i + o1), read2(s2, w2 * i + o2)
        step, a, b, c = element(x, y, square, a0, b0, c0, h)
        write(s0, w0 * i, a)
        write(s1, w1 * i, b)
        write(s2, w2 * i, c)
        finish(re, i, x, step, p, out, average, low, high, rate, k)
        step, a, b, c = element(u, w, square, a1, b1, c1, h)
        write0(s0, w0 * i + o0, a)
        write1(s1, w1 * i + o1, b)
        write2(s2, w2 * i + o2, c)
        finish(im, i, u, step, p, out, average, low, high, rate, k)

    return wrap(update)

"""One element of the pass, the same on CPU and CUDA: what a step does around a rule's formula.

Loops hold no arithmetic: it is here and in the rules. The order of a step is the same for every
rule: maximize, unscale, accumulate, mask at active bounds, norm and guard, clip by value, clip by
norm, L2 decay, the rule, decoupled decay, bounds, average.

What an option does not need is ``None`` and pruned when the loop is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numadam._core import plan as pl
from numadam._core.formula import plan_element
from numadam._core.half import reader, state_writer, writer
from numadam._core.plan import Plan

#: ``wrap(function)`` compiles it for the target, under a symbol of its own.
Wrap = Callable[[Callable[..., Any]], Any]


def at(a, i):
    """``a[i]``, or None where the array is absent (pruned when compiled)."""
    if a is None:
        return None
    return a[i]


def put(a, i, x):
    """``a[i] = x``, or nothing where the array is absent (pruned when compiled)."""
    if a is not None:
        a[i] = x


def _item(a, i, scalar):
    return a[i]


def _scalar(a, i, scalar):
    return scalar


def _nothing(a, i, scalar):
    return None


def _effective(x, y, total, low, high, limit, k):
    """The gradient from one that is unscaled already, no larger than `limit` (NaN stays)."""
    if total is not None:
        y = (total * k.pre + y) / k.gradients
    if limit is None:
        return y
    most, least = limit, -limit
    if low is not None:
        # none outward at an active bound: moments that wind up would hold x there afterwards. As
        # limits this takes half the time of conditions on y, behind which no bound may be read:
        # the norm's loop would not be packed
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
    """The whole step: with a step size per element, and with decoupled decay.

    Decay and step are added before they meet x: one rounding. Shrinking x first, p*(1 - lr*wd),
    was 40 times as wrong after 2000 steps in float32 with lr = 1e-3 and weight_decay = 1e-4.
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
    """``gradient(i, x, g, total, low, high, limit, k)``: of element i, before the clip by norm.

    `x` is its parameter, which decides whether a bound is active, and `limit` clips by value.
    """
    read, fetch, shape = wrap(reader(plan.storage(pl.G))), wrap(at), wrap(_effective)
    pick = wrap({"array": _item, "scalar": _scalar, "": _nothing}[plan.bounds])

    def gradient(i, x, g, total, low, high, limit, k):
        lo, hi = pick(low, i, k.low), pick(high, i, k.high)
        return shape(x, read(g, i) * k.scale, fetch(total, i), lo, hi, limit, k)

    return wrap(gradient)


def make_norm_gradient(plan: Plan, wrap: Wrap) -> Any:
    """``seen(i, x, g, total, low, high, k)``: the gradient as the norm sees it.

    `x` are the parameters, or their float32 copy where there is one.
    """
    gradient, no_limit = make_gradient(plan, wrap), plan.real.type(np.inf)
    if not plan.bounds:

        def unbounded(i, x, g, total, low, high, k):
            return gradient(i, None, g, total, low, high, None, k)

        return wrap(unbounded)
    value = wrap(at if plan.master else reader(plan.storage(pl.P)))

    def seen(i, x, g, total, low, high, k):
        return gradient(i, value(x, i), g, total, low, high, no_limit, k)

    return wrap(seen)


def make_value(plan: Plan, wrap: Wrap) -> Any:
    """``value(i, p, master)``: parameter i, from its float32 copy where there is one."""
    read = wrap(reader(plan.storage(pl.P)))

    def value(i, p, master):
        if master is None:
            return read(p, i)
        return master[i]

    return wrap(value)


def _make_prepare(plan: Plan, wrap: Wrap) -> Any:
    """``prepare(...) -> x, y``: parameter i, and the gradient as the rule gets it."""
    value, gradient, shrunk = make_value(plan, wrap), make_gradient(plan, wrap), wrap(_shrunk)
    decay = wrap(_scalar if plan.decay == "l2" else _nothing)

    def prepare(i, p, g, total, low, high, master, k):
        x = value(i, p, master)
        y = gradient(i, x, g, total, low, high, k.clip, k)
        return x, shrunk(y, x, decay(None, i, k.decay), k)

    return wrap(prepare)


def _make_finish(plan: Plan, wrap: Wrap) -> Any:
    """``finish(...)``: write the new parameter, or the direction, and what follows it.

    `r` is the element's place in the array of step sizes.
    """
    write, fetch, store = wrap(writer(plan.storage(pl.P))), wrap(at), wrap(put)
    decayed, bounded, follow = wrap(whole_step), wrap(_bounded), wrap(_followed)
    loses = wrap(_scalar if plan.decay == "decoupled" else _nothing)
    pick = wrap({"array": _item, "scalar": _scalar, "": _nothing}[plan.bounds])

    def finish(i, r, x, step, p, out, average, low, high, rate, master, k):
        step = decayed(x, step, fetch(rate, r), loses(None, i, k.lost), k)
        lo, hi = pick(low, i, k.low), pick(high, i, k.high)
        if out is None:
            new = bounded(x - step, lo, hi)
            write(p, i, new)
            store(master, i, new)
            store(average, i, follow(fetch(average, i), new, k))
        elif lo is None:
            write(out, i, -step)
        else:
            write(out, i, bounded(x - step, lo, hi) - x)

    return wrap(finish)


def _followed(average, x, k):
    """The running average after the new parameter: it stays exactly where they are equal."""
    if average is None:
        return None
    return average + k.weight * (x - average)


def make_element_update(plan: Plan, wrap: Wrap) -> Any:
    """``turn(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k)``."""
    if plan.modulus:
        return _make_pair(plan, wrap)
    prepare, finish = _make_prepare(plan, wrap), _make_finish(plan, wrap)
    element = plan_element(plan, wrap)
    read, write = wrap(reader(plan.state_dtype)), wrap(state_writer(plan.state_dtype))

    def turn(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k):
        x, y = prepare(i, p, g, total, low, high, master, k)
        step, a, b, c = element(x, y, y * y, read(s0, i), read(s1, i), read(s2, i), h)
        write(s0, i, a, k.seed)
        write(s1, i, b, k.seed)
        write(s2, i, c, k.seed)
        finish(i, i, x, step, p, out, average, low, high, rate, master, k)

    return wrap(turn)


def _skip(a, i, x, seed):
    return None


def _make_pair(plan: Plan, wrap: Wrap) -> Any:
    """One complex number: the formula runs for its real and its imaginary part.

    Both get the squared modulus, so that they agree on the second moment, which is kept once.
    """
    prepare, finish = _make_prepare(plan, wrap), _make_finish(plan, wrap)
    element = plan_element(plan, wrap)
    read, write, skip = (
        wrap(reader(plan.state_dtype)),
        wrap(state_writer(plan.state_dtype)),
        wrap(_skip),
    )
    whole = [plan.whole(slot) for slot in (pl.S0, pl.S1, pl.S2)]
    w0, w1, w2 = (1 if one else 2 for one in whole)
    o0, o1, o2 = (0 if one else 1 for one in whole)
    write0, write1, write2 = (skip if one else write for one in whole)

    def turn(i, p, g, s0, s1, s2, out, total, average, low, high, rate, master, h, k):
        re, im = 2 * i, 2 * i + 1
        x, y = prepare(re, p, g, total, low, high, master, k)
        u, w = prepare(im, p, g, total, low, high, master, k)
        square = y * y + w * w
        a0, b0, c0 = read(s0, w0 * i), read(s1, w1 * i), read(s2, w2 * i)
        a1, b1, c1 = read(s0, w0 * i + o0), read(s1, w1 * i + o1), read(s2, w2 * i + o2)
        step, a, b, c = element(x, y, square, a0, b0, c0, h)
        write(s0, w0 * i, a, k.seed)
        write(s1, w1 * i, b, k.seed)
        write(s2, w2 * i, c, k.seed)
        finish(re, i, x, step, p, out, average, low, high, rate, master, k)
        step, a, b, c = element(u, w, square, a1, b1, c1, h)
        write0(s0, w0 * i + o0, a, k.seed)
        write1(s1, w1 * i + o1, b, k.seed)
        write2(s2, w2 * i + o2, c, k.seed)
        finish(im, i, u, step, p, out, average, low, high, rate, master, k)

    return wrap(turn)


def make_add(plan: Plan, wrap: Wrap) -> Any:
    """``add(i, first, g, total, k)``: one more gradient on the sum, or the first one."""
    read = wrap(reader(plan.storage(pl.G)))

    def add(i, first, g, total, k):
        y = read(g, i) * k.scale
        total[i] = y if first else total[i] + y

    return wrap(add)


def make_start(plan: Plan, wrap: Wrap) -> Any:
    """``start(i, p, average, low, high, master, k)``: before the first step.

    A parameter outside of its bounds goes to the nearest one, and its copies begin as it is.
    """
    read, write = wrap(reader(plan.storage(pl.P))), wrap(writer(plan.storage(pl.P)))
    bounded, store = wrap(_bounded), wrap(put)
    pick = wrap({"array": _item, "scalar": _scalar, "": _nothing}[plan.bounds])

    def start(i, p, average, low, high, master, k):
        lo, hi = pick(low, i, k.low), pick(high, i, k.high)
        # x - 0 is x, but no type that may be None, of which numba-cuda makes no float32
        x = bounded(read(p, i) - k.zero, lo, hi)
        if lo is not None:
            write(p, i, x)
        store(average, i, x)
        store(master, i, x)

    return wrap(start)

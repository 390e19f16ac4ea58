"""What the compiled functions of all rules are put together from.

They are compiled where the user calls them: for the CPU with the user's own ``@njit`` function,
for the GPU with the user's own kernel. The formulas are those of the rules; the loop over arrays
of any layout is here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

from numadam._core import options as op
from numadam._core.element import LOST, put, whole_step
from numadam._core.rule import RuleSpec
from numadam._jit.cache import source_stamp
from numadam._jit.functions import jit_once
from numadam._version import __version__
from numadam.nopython.typed import complete, doubles, item, make_views, number_as
from numadam.nopython.typed import present as present

F = TypeVar("F", bound=Callable[..., Any])
#: What the public functions take: arrays, and single numbers.
Array = np.ndarray[Any, Any]
Number = float | np.floating[Any]


#: Changes wherever a formula may have changed.
VERSION = f"{__version__}-{source_stamp('nopython')[:12]}"


def compiled(function: F) -> F:
    """Compile a public function where it is called, under a symbol that no other version has."""
    pretty = function.__qualname__
    function.__qualname__ = f"{VERSION}.{pretty}"
    made = njit(error_model="numpy")(function)
    made.__qualname__ = pretty
    return cast(F, made)


def _plain(x, step, lost):
    return x - step


def _make_losing(wrap: Any) -> Any:
    whole = wrap(whole_step)

    def losing(x, step, lost):
        """With decoupled decay. Where there is none, no 0*x: it would make NaN of inf."""
        if lost != lost - lost:
            step = whole(x, step, None, lost, None)
        return x - step

    return wrap(losing)


def _make_scalars(rule: RuleSpec, options: Mapping[str, Any], wrap: Any) -> Any:
    """``scalars(own, q, t, lr, weight_decay) -> h``: all that an element needs, in float64.

    `own` are the rule's hyperparameters, and `q` the running products before the step.
    """
    switches = tuple(float(entry(options)) for entry in rule.control.values())
    row = op.row(rule, options, 0.0)[: op.RULE]
    before, after = tuple(row[: op.DECAY]), tuple(row[op.DECAY + 1 :])
    of_rule, of_loop = wrap(rule.scalars), wrap(op.loop_scalars)

    def scalars(own, q, t, lr, weight_decay):
        if t < 1:
            raise ValueError("t: expected the number of this step, 1 at the first.")
        rate, decay = np.float64(lr), np.float64(weight_decay)
        control = (*before, decay, *after)
        # the last: where the arithmetic is float32, which presets alone ask for
        h = of_rule((*doubles(own), *switches), q, rate, np.float64(t), 0.0)
        return *h, of_loop(control, rate, 1.0, 1.0, 0.0)[LOST]

    return wrap(scalars)


def _make_element(rule: RuleSpec, options: Mapping[str, Any], wrap: Any) -> tuple[Any, Any]:
    """Two forms of one element: of a loop, with all numbers of one type, and for the user."""
    formula, take = wrap(rule.formula(**rule.variant(options))), number_as
    lose = _make_losing(wrap) if rule.decoupled else wrap(_plain)

    def inner(p, g, s0, s1, s2, h, lost):
        step, a, b, c = formula(p, g, g * g, s0, s1, s2, h)
        return lose(p, step, lost), a, b, c

    same = wrap(inner)

    def element(p, g, s0, s1, s2, h):
        k, lost = complete(h[:-1], p), take(h[-1], p)
        return same(p, take(g, p), take(s0, p), take(s1, p), take(s2, p), k, lost)

    return same, wrap(element)


def _make_walk(names: tuple[str, ...], same: Any, wrap: Any) -> Any:
    """``walk(p, g, s0, s1, s2, h)``: over arrays, in place. Absent ones are None."""
    of_g, of_0, of_1, of_2 = (f"{name}: expected the shape of p." for name in names[1:])
    views, store = make_views(names), wrap(put)

    def one(i, p, g, s0, s1, s2, h, lost):
        p[i], a, b, c = same(p[i], g[i], item(s0, i), item(s1, i), item(s2, i), h, lost)
        store(s0, i, a)
        store(s1, i, b)
        store(s2, i, c)

    turn = wrap(one)

    def run(p, g, s0, s1, s2, h, lost):
        if p.ndim == 1:
            for i in range(p.size):
                turn(i, p, g, s0, s1, s2, h, lost)
        else:
            for index in np.ndindex(p.shape):
                turn(index, p, g, s0, s1, s2, h, lost)

    loop = wrap(run, forceinline=True)

    def walk(p, g, s0, s1, s2, h):
        if g.shape != p.shape:
            raise ValueError(of_g)
        if s0 is not None and s0.shape != p.shape:
            raise ValueError(of_0)
        if s1 is not None and s1.shape != p.shape:
            raise ValueError(of_1)
        if s2 is not None and s2.shape != p.shape:
            raise ValueError(of_2)
        x, y, a, b, c = views(p, g, s0, s1, s2)
        loop(x, y, a, b, c, complete(h[:-1], p), number_as(h[-1], p))

    return wrap(walk)


class Kit(NamedTuple):
    """The compiled parts of one rule in its default form."""

    scalars: Any
    element: Any
    walk: Any


def kit(cls: Any) -> Kit:
    """The parts of the rule of an optimiser class; absent state arrays are None in them."""
    rule = cls.rule
    given = inspect.signature(cls).parameters.items()
    defaults = {name: one.default for name, one in given if one.default is not one.empty}
    options = {**op.DEFAULTS, **defaults}
    wrap = jit_once
    names = ("p", "g", *rule.state, *[""] * (3 - len(rule.state)))
    same, element = _make_element(rule, options, wrap)
    return Kit(_make_scalars(rule, options, wrap), element, _make_walk(names, same, wrap))

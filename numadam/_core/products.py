"""Products over the steps: the powers beta^t, products of betas that change, and a rule's own.

A group has a row of numbers for them, in memory that keeps from step to step::

    [those carried, before step t | all, up to step t | the last powers, as `make_power` keeps them]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._core.powers import KEPT, make_power
from numadam._core.rule import named
from numadam._core.scalars import is_float32, reader
from numadam._jit.functions import linked


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


def make_products(plan: Plan, wrap: Any = linked) -> Any:
    """``products(q, row, t)``: the products up to step t in a row q, from those before it.

    `row` is that of the control block. Where none is carried, steps need not come in order.
    """
    own, carried, fields = plan.own_products, len(plan.products), _fields(plan)
    if fields[:carried] != plan.products:
        raise ValueError(f"{plan.rule.name}: {plan.products} are not the first of {fields}.")
    powers = _make_powers(plan, wrap) if len(fields) > len(own) else wrap(_nothing)
    if not own:
        return powers
    advance, before = wrap(plan.advance), reader(named("Products", own), 0, wrap)
    hypers, count = reader(plan.rule.hyper_type, op.RULE, wrap), len(own)
    single = is_float32(plan.real)

    def products(q, row, t):
        new = advance(hypers(row), before(q), t, single)
        for i in range(count):
            q[carried + i] = new[i]
        powers(q, row, t)

    return wrap(products)


def _make_powers(plan: Plan, wrap: Any) -> Any:
    """``powers(q, row, t)``: the products of hyperparameters, in place."""
    own, fields, rule = plan.own_products, _fields(plan), plan.rule
    names = [hyper.name for hyper in rule.hypers]
    # where they lie in a row of the control block
    columns = tuple(op.RULE + names.index(name) for name in rule.powers)
    first, count, kept = len(own), len(columns), len(plan.products) + len(fields)
    place, changing, exact = kept - count, len(plan.products) > first, plan.power is None
    power = make_power(wrap)
    of_library = power if exact else wrap(plan.power)

    def powers(q, row, t):
        for k in range(count):
            beta = row[columns[k]]
            if changing:
                q[place + k] = q[first + k] * beta
            elif exact:
                q[place + k] = power(beta, t, q, kept + KEPT * k)
            else:
                q[place + k] = of_library(beta, t)

    return wrap(powers)


def make_advance_row(plan: Plan, wrap: Any) -> Any:
    """``advance_row(q)``: the step whose products `q` has is taken: those carried move on."""
    carried = len(plan.products)

    def advance_row(q):
        for i in range(carried):
            q[i] = q[carried + i]

    return wrap(advance_row)


def _interpreted(function: Any, **how: Any) -> Any:
    """The function as it is, in the place of one that compiles it."""
    return function


def products_after(
    plan: Plan, steps: int, control: np.ndarray, refresh: Callable[[int], None]
) -> np.ndarray:
    """Rows of products after so many steps; `refresh` brings a step's numbers into `control`."""
    rows = start_products(plan, len(control))
    find, advance = make_products(plan, _interpreted), make_advance_row(plan, _interpreted)
    for step in range(steps):
        refresh(step)
        for q, row in zip(rows, control, strict=True):
            find(q, row, float(step + 1))
            advance(q)
        if not rows[:, : len(plan.products)].any():  # they stay 0
            break
    return rows


def _nothing(q, row, t):
    return None

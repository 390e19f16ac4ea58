"""Text of the compiled minimisation of one problem: test an iterate, take the next step.

An objective comes with a small function of its own, which calls this one and evaluates until it
says stop: see `numadam._minimize.compiled.objective`. All state lies in memory, in a table of whole
numbers and addresses, and in the numbers of the stop tests.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from numba import int64

from numadam._core import options as op
from numadam._core.plan import Plan
from numadam._core.text import DECORATOR, function_text, indented
from numadam._cpu.loop import StepText
from numadam._jit import build
from numadam._minimize import stop_text as tt

#: Of small functions: each is optimised by itself first, then part of its caller.
INLINED = DECORATOR.replace(")", ", forceinline=True)")

#: What the loop says of an iterate, `STATE`: it is to be evaluated, it has been, it is tested.
FRESH, EVALUATED, TESTED = range(3)
#: Result of `iterate`: evaluate, or stop: a test holds, or all steps are taken.
EVALUATE, STOP = range(2)


class Table(NamedTuple):
    """Places of whole numbers and addresses."""

    STATE: int
    CODE: int  # RUNNING, or the test that holds
    LEFT: int  # steps that the call may take
    DONE: int  # iterations of the run
    UPDATES: int  # element updates in a step
    COUNT: int  # real numbers of x
    STEP: int  # place of the next step in the tables of rates and changes, which each call begins
    RATE_STEP: int  # 0 if the rates are one number
    CHANGING: int  # columns of the control row with a schedule
    EVERY: int  # iterations from one line of the history to the next, 0: none
    LINES: int  # lines written
    MOST_LINES: int
    KNOWN_ROWS: int  # steps whose scalars are known
    MOST_ROWS: int
    # addresses
    COUNTERS: int  # int64: steps taken, ...
    NUMBERS: int  # float64: the stop tests', see `stop_text`
    ROWS: int  # scalars of the first steps, which other runs may write, too: the same numbers
    OWN_ROW: int  # scalars of any other step
    CONTROL: int  # float64: the row of the control block
    PRODUCTS: int  # float64: products over the steps that are carried
    RATES: int  # float64: lr of each step of the call
    COLUMNS: int  # int64[changing]: columns of the control row with a schedule
    CHANGES: int  # float64[steps, changing]: what they hold
    HISTORY: int  # float64[lines, 4]: iteration, f, gradient, lr
    TOPS: int  # float64: see `stop_text.LANES`
    BLOCKS: int  # int64[blocks, 5]: of the gradient's norm, as a step has them
    BLOCK_COUNT: int
    SUMS: int  # float64: squares of each block
    TOTALS: int  # float64[1, 2]: their sum, and its exponent
    BEFORE: int  # x before the step, 0 if no test asks for it
    BEST: int  # best x, 0 if it is not tracked
    BEST_GRADIENT: int
    FIRSTS: int  # the first gradient of each number
    ARRAYS: int  # the first array of the step: x, g, state, ...


CELL = Table(*range(len(Table._fields)))


def _view(name: str, place: str, like: str, shape: object) -> str:
    """A view of memory whose address is in the table."""
    return f"{name} = carray(pointer(table[{place}], {like}), {shape})"


def _views(text: StepText) -> list[str]:
    """Views of the arrays of a step that the tests read; a complex number is two."""
    names = ["p", "g", *(["low", "high"] if text.plan.bounds == "array" else [])]
    places = [(text.views[name], text.arrays.index(name)) for name in names]
    return [_view(view, f"ARRAYS + {place}", "one", "count") for view, place in places]


def _test(plan: Plan, norm: float) -> list[str]:
    """Test the iterate, note the best one, and write the history."""
    lines = ["f, number = numbers[F], table[DONE]", "later, early = number > 0, counters[0] <= 1"]
    lines += [_view("befores", "BEFORE", "one", "count"), _view("firsts", "FIRSTS", "one", "count")]
    lines += [_view("tops", "TOPS", "1.0", tt.LANES), *tt.test_lines(plan.bounds, norm)]
    lines += ["if table[BEST] != 0 and f < numbers[F_BEST] and math.isfinite(f):"]
    lines += ["    numbers[F_BEST], numbers[SIZE_BEST] = f, size"]
    lines += ["    " + _view("best", "BEST", "one", "count")]
    lines += ["    " + _view("best_g", "BEST_GRADIENT", "one", "count")]
    lines += ["    for i in range(count):", "        best[i], best_g[i] = ps[i], gs[i]"]
    lines += ["if table[EVERY] > 0 and (number % table[EVERY] == 0 or code != 0):"]
    lines += ["    write_line(table, number, f, size)"]
    return [*lines, "table[CODE], table[STATE] = code, TESTED"]


def _step(text: StepText) -> list[str]:
    """Take a step."""
    width = text.width
    lines = ["t, step_number = counters[0], table[STEP]", "is_kept = t < table[MOST_ROWS]"]
    place = f"table[ROWS] + {text.plan.real.itemsize * width} * t"
    lines += [f"row_at = {place} if is_kept else table[OWN_ROW]"]
    lines += [f"row = carray(pointer(row_at, one), {width})", "if t >= table[KNOWN_ROWS]:"]
    lines += ["    fill_row(table, row, t, step_number)"]
    lines += ["    if is_kept and t == table[KNOWN_ROWS]:", "        table[KNOWN_ROWS] += 1"]
    lines += ["if table[BEFORE] != 0:", "    " + _view("befores", "BEFORE", "one", "count")]
    lines += ["    for i in range(count):", "        befores[i] = ps[i]"]
    lines += [f"arrays = carray(pointer(at + {8 * CELL.ARRAYS}, at), (1, {len(text.arrays)}))"]
    lines += ["clip_row(table, arrays, row)"] if text.plan.clip_norm else []
    lines += ["part(arrays, 0, 0, table[UPDATES], 0, row)"]
    lines += ["counters[0], table[DONE], table[STEP] = t + 1, table[DONE] + 1, step_number + 1"]
    return [*lines, "table[LEFT] -= 1", "table[STATE] = EVALUATED", "return EVALUATE"]


def _fill_row(plan: Plan) -> list[str]:
    """``fill_row(table, row, t, step_number)``: the scalars of the step after t."""
    carried = len(plan.products)
    lines = [_view("control", "CONTROL", "1.0", op.RULE + plan.rule.width)]
    lines += [_view("products", "PRODUCTS", "1.0", 2 * carried), "changing = table[CHANGING]"]
    lines += [_view("columns", "COLUMNS", "changing", "changing")]
    lines += [_view("changes", "CHANGES", "1.0", "(step_number + 1, changing)")]
    lines += ["for c in range(changing):", "    control[columns[c]] = changes[step_number, c]"]
    lines += [_view("rates", "RATES", "1.0", "step_number + 1")]
    lines += ["fill(row, control, products, t + 1.0, rates[step_number * table[RATE_STEP]])"]
    return lines + [f"products[{k}] = products[{carried + k}]" for k in range(carried)]


def clip_text(text: StepText) -> str:
    """``clip(arrays, begin, blocks, sums, totals, limit, margin, row)``: its factors, into the row.

    Of the norm of an array from `begin` on, which `blocks` cut as a step does.
    """
    pre = text.scalars.index("pre")
    block = "arrays, 0, begin + blocks[b, 1], blocks[b, 2], begin + blocks[b, 3], row"
    lines = [
        "totals[0, 1] = 0.0",
        "again = True",
        "while again:",
        "    for b in range(len(sums)):",
        f"        sums[b] = square({block}, 2.0 ** -totals[0, 1])",
        "    again = add_up(sums, blocks, totals)",
        "pre, factor = clip_factor(totals[0, 0], int(totals[0, 1]), limit, margin, tiny)",
        f"row[{pre}], row[{pre + 1}] = pre, factor",
    ]
    head = "clip(arrays, begin, blocks, sums, totals, limit, margin, row)"
    return function_text(head, lines, INLINED)


def _clip_row(plan: Plan) -> list[str]:
    """``clip_row(table, arrays, row)``: the factors of the clip by norm, into the row."""
    limit = op.COLUMN.clip_array_norm if plan.norm == "array" else op.COLUMN.clip_norm
    return [
        _view("control", "CONTROL", "1.0", op.RULE),
        _view("blocks", "BLOCKS", "table[BLOCKS]", "(table[BLOCK_COUNT], 5)"),
        _view("sums", "SUMS", "1.0", "table[BLOCK_COUNT]"),
        _view("totals", "TOTALS", "1.0", "(1, 2)"),
        f"limit, margin = control[{limit}], control[{op.COLUMN.margin}]",
        "clip(arrays, 0, blocks, sums, totals, limit, margin, row)",
    ]


_WRITE_LINE = [
    "line = table[LINES]",
    "if line < table[MOST_LINES]:",
    "    " + _view("rates", "RATES", "1.0", "table[STEP] + 1"),
    "    " + _view("history", "HISTORY", "1.0", "(line + 1, 4)"),
    "    history[line, 0], history[line, 1], history[line, 2] = number, f, size",
    "    history[line, 3] = rates[max(table[STEP] - 1, 0) * table[RATE_STEP]]",
    "    table[LINES] = line + 1",
]


class Loop:
    """The compiled loop of a plan.

    Attributes
    ----------
    address : int
        Of ``iterate(table_at) -> EVALUATE or STOP``.
    arrays, width : int
        Arrays of a step that the table has, in the order of the text; scalars in a row.
    """

    def __init__(self, plan: Plan, norm: float) -> None:
        text = StepText(plan)
        self.arrays, self.width = len(text.arrays), text.width
        name = f"{plan.name}-single" + ("" if norm == math.inf else f"-norm-{norm:g}")
        scope = {**text.scope, **tt.SCOPE, **CELL._asdict(), "real": plan.real.type}
        scope |= {"FRESH": FRESH, "EVALUATED": EVALUATED, "TESTED": TESTED}
        scope |= {"EVALUATE": EVALUATE, "STOP": STOP}
        self.address = build.address(
            name,
            source_of(text, norm),
            scope,
            int64(int64),
            entry="iterate",
            keep=not plan.rule.digest,
        )


def source_of(text: StepText, norm: float) -> str:
    """The module of the loop of a plan."""
    plan = text.plan
    lines = [f"table = carray(pointer(at, at), {CELL.ARRAYS + len(text.arrays)})"]
    lines += ["if table[STATE] == FRESH:", "    table[STATE] = EVALUATED", "    return EVALUATE"]
    lines += [_view("numbers", "NUMBERS", "1.0", len(tt.NUMBER_AT))]
    lines += [_view("counters", "COUNTERS", "at", 1), "count = table[COUNT]", *_views(text)]
    if plan.bounds == "scalar":
        lines += [_view("control", "CONTROL", "1.0", op.RULE)]
        lines += [f"low, high = real(control[{op.COLUMN.low}]), real(control[{op.COLUMN.high}])"]
    lines += ["if table[STATE] == EVALUATED:", *indented(_test(plan, norm))]
    lines += ["if table[CODE] != 0 or table[LEFT] == 0:", "    return STOP", *_step(text)]
    functions = [
        *text.functions,
        function_text("fill_row(table, row, t, step_number)", _fill_row(plan)),
        function_text("write_line(table, number, f, size)", _WRITE_LINE),
    ]
    if plan.clip_norm:
        clip = function_text("clip_row(table, arrays, row)", _clip_row(plan))
        functions += [clip_text(text), clip]
    functions += [function_text("iterate(at)", lines, "")]
    return "\n\n\n".join(functions) + "\n"


@functools.cache
def loop_of(plan: Plan, norm: float) -> Loop:
    """The loop of a plan, compiled or loaded."""
    return Loop(plan, norm)

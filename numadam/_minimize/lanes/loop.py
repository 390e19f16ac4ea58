"""Text of the compiled minimisation of many problems, vectorised across the problems.

`lanes` problems make a packet. Its x, gradient and state lie as (element, lane), so that the
element update, the stop tests and the objective run over the lanes of an element, which the
compiler vectorises. A block is some packets, evaluated by one call, and stepped as one flat array::

    block 0                                        block 1
    | packet 0          | packet 1          | ... |  | packet ...
    | x0 .. | x1 .. |  | x0 .. | x1 .. |        |  |

Problems that run are the first ones of their block: one that stops is written to its place in the
result, and the last one that runs takes its position, so that it costs nothing any more. Lanes
behind them are stepped, but nobody reads them. Elements depend on nothing but their own problem,
so neither the other problems, their order nor threads change a bit.

With one lane to a packet each problem is contiguous: for large problems, which vectorise by
themselves, for few of them, for objectives that take no strided x, and where problems have scalars
of their own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import int64

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.text import DECORATOR, function_text, indented
from numadam._cpu.loop import NORM_BLOCK, StepText
from numadam._jit import build
from numadam._jit.calls import call5, call7
from numadam._jit.private import lane_memory
from numadam._minimize import stop_text as tt
from numadam._minimize import stopping as st

# --- memory shared with Python -------------------------------------------------------------------


class Words(NamedTuple):
    """Whole numbers and addresses of a batch, or their places.

    A problem has a position, which changes when another one stops, and a number, which is the
    user's. A call of the loop takes some iterations of some blocks.
    """

    UPDATES: int  # element updates of one problem in a step
    NUMBERS: int  # real numbers of one problem
    ELEMENTS: int  # elements of one problem
    POSITIONS: int  # of problems, the last of them not in use
    PROBLEMS: int
    BLOCK: int  # positions of a block, evaluated by one call and stepped as one array
    FUN: int  # address of `evaluate`
    # the call at hand
    FIRST_BLOCK: int
    END_BLOCK: int
    LAST: int  # 1 if its blocks are the batch's last ones, so that t advances
    STEPS: int  # iterations that it may take
    DONE: int  # iterations before it
    TABLE_STEPS: int  # iterations whose scalars are computed at a time
    AT_START: int  # 1 as long as x0 has not been evaluated
    TAKEN: int  # iterations by which t has advanced
    FAILED: int  # 1 if the objective raised
    CHANGING: int  # columns of the control row with a schedule
    # addresses
    SHAPE: int  # int64: shape of one problem
    TABLE: int  # int64[1, arrays]: addresses of the arrays of a step
    COUNTERS: int  # int64: steps taken, ...
    CONTROL: int  # float64: the row of the control block
    CARRIED: int  # float64: the products over the steps
    TOLERANCES: int  # float64[4]: gtol, ftol, xtol, gtol_rel
    VALUES: int  # float64[VALUES, positions], see VALUE
    TESTS: int  # int64[positions]: RUNNING, or the test that holds
    BEFORE: int  # x before the step, 0 if no test asks for it
    BEST: int  # best x
    BEST_G: int  # its gradient
    FIRSTS: int  # the first gradient of each number, see `share_of_own`
    SCALARS: int  # [table_steps, width]: scalars of each step
    PRODUCTS: int  # float64[table_steps + 1, 2 * products]: before each step, then after it
    SCRATCH: int  # float64[blocks, ...], see `_Scratch`
    NO_BLOCKS: int  # int64[blocks of a norm, 5]: zeros
    ORDER: int  # int64[positions]: number of the problem
    OWN_LR: int  # float64[positions], 0 if they share a learning rate
    CODES: int  # int64[problems]: RUNNING, or the test that holds; by number, as those below
    NIT: int  # int64[problems]: iterations taken; of running ones at each call
    RESULT: int  # float64[RESULTS, problems]: the first ones of VALUE
    ROWS: int  # int64[4]: addresses of the last x, best x, its gradient, average
    LIVE: int  # int64[blocks]: problems that still run; they are the first ones
    RATES: int  # float64: lr of each step of the call
    COLUMNS: int  # int64[changing]: columns of the control row with a schedule
    CHANGES: int  # float64[steps, changing]: what they hold at each step


#: The place of each.
WORD: Any = Words(*range(len(Words._fields)))

#: Rows of `values`: f; the best f, and the norm of the projected gradient there; that norm at x,
#: at the start, and where the problem stops; f before the step. The first ones are results.
VALUE_F, VALUE_BEST, VALUE_BEST_NORM, VALUE_NORM, VALUE_FIRST, VALUE_LIMIT, VALUE_BEFORE = range(7)
VALUES, RESULTS = 7, 5


class _Scratch:
    """Places in the scratch of a block, in numbers of 8 bytes."""

    def __init__(self, text: StepText, updates: int) -> None:
        self.row = op.RULE + text.plan.rule.width  # behind a control row
        self.products = self.row + text.width
        self.totals = self.products + 2 * len(text.plan.products)
        self.sums = self.totals + 2
        self.size = self.sums + -(-updates // NORM_BLOCK)


# --- text: parts that are the same for all plans -------------------------------------------------


#: Of small functions: each is optimised by itself first, then part of its caller. Calls take 5 %.
_INLINED = DECORATOR.replace(")", ", forceinline=True)")


def _view(name: str, address: str, like: str, shape: object) -> str:
    return f"{name} = carray(pointer({address}, {like}), {shape})"


def _word(name: str, place: str, like: str, shape: object) -> str:
    """A view of an array whose address is a word."""
    return _view(name, f"w[{place}]", like, shape)


_COMMON = f'''
{DECORATOR}
def copy_words(to_at, to_step, of_at, of_step, count, words):
    """Copy `count` elements of so many words of 4 bytes, which lie `step` words apart."""
    to = carray(pointer(to_at, WORD), count * to_step)
    of = carray(pointer(of_at, WORD), count * of_step)
    for i in range(count):
        for k in range(words):
            to[i * to_step + k] = of[i * of_step + k]


{DECORATOR}
def move_values(w, problem, position, last, number):
    """Write the result of a problem that stops, and move the last one, as far as numbers go."""
    values = carray(pointer(w[VALUES], 1.0), (ALL_VALUES, w[POSITIONS]))
    result = carray(pointer(w[RESULT], 1.0), (RESULTS, w[PROBLEMS]))
    tests = carray(pointer(w[TESTS], w[0]), w[POSITIONS])
    carray(pointer(w[CODES], w[0]), w[PROBLEMS])[problem] = tests[position]
    carray(pointer(w[NIT], w[0]), w[PROBLEMS])[problem] = number
    for row in range(ALL_VALUES):
        if row < RESULTS:
            result[row, problem] = values[row, position]
        values[row, position] = values[row, last]
    if w[OWN_LR] != 0:
        own_lr = carray(pointer(w[OWN_LR], 1.0), w[POSITIONS])
        own_lr[position] = own_lr[last]


{DECORATOR}
def retire(w, position, last, number):
    """A problem has stopped: its results go to the place of its number, the last one to its."""
    n = w[ELEMENTS]
    table = carray(pointer(w[TABLE], w[0]), ARRAYS)
    order = carray(pointer(w[ORDER], w[0]), w[POSITIONS])
    rows = carray(pointer(w[ROWS], w[0]), 4)
    problem = order[position]
    here = position // LANES * n * LANES + position % LANES
    there = last // LANES * n * LANES + last % LANES
    for s in range(ARRAYS + 3):
        words, row, first = ITEM_WORDS[0], s - ARRAYS + 1, w[BEST]
        if s < ARRAYS:
            words, row, first = ITEM_WORDS[s], KEPT[s], table[s]
        elif s == ARRAYS + 1:
            first = w[BEST_G]
        elif s > ARRAYS:
            row, first = -1, w[FIRSTS]
        step, mine, other = words * LANES, first + 4 * words * here, first + 4 * words * there
        if row >= 0:
            copy_words(rows[row] + 4 * words * n * problem, words, mine, step, n, words)
        if position != last:
            copy_words(mine, step, other, step, n, words)
    move_values(w, problem, position, last, number)
    order[position] = order[last]


{DECORATOR}
def retire_block(w, first, live, number):
    """Retire all problems of a block that have stopped; how many are left."""
    tests = carray(pointer(w[TESTS], w[0]), first + live)
    for position in range(first + live - 1, first - 1, -1):
        if tests[position] != RUNNING:
            live -= 1
            retire(w, position, first + live, number)
    return live


{DECORATOR}
def count_iterations(w, first, live, number, failed):
    """Note how far the problems that run have come, and whether the objective raised."""
    order = carray(pointer(w[ORDER], w[0]), first + live)
    counts = carray(pointer(w[NIT], w[0]), w[PROBLEMS])
    codes = carray(pointer(w[CODES], w[0]), w[PROBLEMS])
    if failed:
        w[FAILED] = 1
    for position in range(first, first + live):
        counts[order[position]] = number
        if failed:
            codes[order[position]] = RAISED


{_INLINED}
def gradient_tests(count, tests, f, norms, limit):
    """Tests of `count` problems without those of relative changes; 0 where all go on."""
    stopped = np.int64(0)
    for j in range(np.uint64(count)):
        tests[j] = code = check_convergence(
            f[j], 0.0, norms[j], 0.0, 0.0, False, (limit[j], 0.0, 0.0)
        )
        stopped |= np.int64(code != RUNNING)
    return stopped


{DECORATOR}
def all_tests(count, tests, f, f_before, norms, way, length, later, limit, ftol, xtol):
    """All tests of `count` problems."""
    stopped = np.int64(0)
    for j in range(np.uint64(count)):
        limits = (limit[j], ftol, xtol)
        code = check_convergence(f[j], f_before[j], norms[j], way[j], length[j], later, limits)
        tests[j], f_before[j] = code, f[j]
        stopped |= np.int64(code != RUNNING)
    return stopped
'''

_KERNEL = f"""
{DECORATOR}
def tabulate(w, begin, steps):
    # the scalars of some steps, for all problems
    changing = w[CHANGING]
    rows = carray(pointer(w[SCALARS], one), (steps, WIDTH))
    rates = carray(pointer(w[RATES] + 8 * begin, 1.0), steps)
    products = carray(pointer(w[PRODUCTS], 1.0), (w[TABLE_STEPS] + 1, 2 * COUNT))
    columns = carray(pointer(w[COLUMNS], w[0]), changing)
    changes = carray(pointer(w[CHANGES] + 8 * begin * changing, 1.0), (steps, changing))
    control = carray(pointer(w[CONTROL], 1.0), CONTROLS)
    now = carray(pointer(w[CARRIED], 1.0), 2 * COUNT)
    t = carray(pointer(w[COUNTERS], w[0]), 1)[0] + begin
    for k in range(COUNT):  # the last of the steps before, or those of the state
        products[0, k] = products[w[TABLE_STEPS], k] if begin > 0 else now[k]
    for it in range(steps):
        for c in range(changing):
            control[columns[c]] = changes[it, c]
        fill(rows[it], control, products[it], t + it + 1.0, rates[it])
        for k in range(COUNT):
            products[it + 1, k] = products[it, COUNT + k]


{DECORATOR}
def bring_on(w, begin, steps):
    # t and the products after these steps
    taken = steps
    if w[PROBLEMS] == 1:  # it may have stopped earlier
        taken = carray(pointer(w[NIT], w[0]), 1)[0] - w[DONE] - begin
    now = carray(pointer(w[CARRIED], 1.0), 2 * COUNT)
    after = carray(pointer(w[PRODUCTS], 1.0), (w[TABLE_STEPS] + 1, 2 * COUNT))
    for k in range(COUNT):
        now[k] = after[taken, k]
    w[TAKEN] = begin + taken
    carray(pointer(w[COUNTERS], w[0]), 1)[0] += begin + taken


{DECORATOR}
def goes_on(w):
    # whether a block has a problem that still runs, and none has failed
    if w[FAILED] != 0:
        return False
    # the call with the last blocks goes on, though all of its own have stopped: it brings t and the
    # running products to where the others are
    if w[LAST] != 0 and w[PROBLEMS] > 1:
        return True
    of_blocks = carray(pointer(w[LIVE], w[0]), w[END_BLOCK])
    live = 0
    for b in range(w[FIRST_BLOCK], w[END_BLOCK]):
        live += of_blocks[b]
    return live > 0


def kernel(words_at, block_at, args_at):
    w = carray(pointer(words_at, words_at), ALL_WORDS)
    first, end = w[FIRST_BLOCK], w[END_BLOCK]
    begin = steps = np.int64(0)
    going = True
    while going:  # so few steps at a time that their scalars stay in the cache
        begin += steps
        left = w[STEPS] - begin
        steps = min(left, w[TABLE_STEPS])
        tabulate(w, begin, steps)
        for b in prange(end - first):
            call5(block_at, first + np.int64(b), words_at, args_at, begin, steps)
        going = goes_on(w) and left > steps
    if w[LAST] != 0:
        bring_on(w, begin, steps)
        w[AT_START] = 0
    return 0
"""


# --- text: tests of a packet ---------------------------------------------------------------------

#: A row of numbers of float64, one for each lane, or real number of a lane.
_WIDE_ROW = "carray(lane_memory(), WIDE)"


def _largest(element: Callable[[str], list[str]], norm: float, lanes: int) -> list[str]:
    """Write the norm of each lane's elements into `out`; NaN where one is.

    `n` are the real numbers of one problem. ``element(i)`` are lines that set `d`.
    """
    if lanes == 1:
        lines = [f"count, tops = n, {_WIDE_ROW}", *tt.norm_lines("size", element, norm)]
        return [*lines, "out[0] = size"]
    each = [*element("i"), "a, b = abs(np.float64(d)), tops[j]"]
    lines = [
        f"tops = {_WIDE_ROW}",
        "for j in range(WIDE):",
        "    tops[j] = 0.0",
        # unsigned: a signed index may count from the end, which prevents vectorising
        "at, row = np.uint64(0), np.uint64(WIDE)",
        "for _ in range(n // REALS):",
        "    for j in range(row):",
        "        i = at + j",
        *indented([*each, "tops[j] = a if a > b or a != a else b"], 2),
        "    at += row",
        "for j in range(LANES):",
        "    top = tops[REALS * j]",
        "    for c in range(1, REALS):",
        "        a = tops[REALS * j + c]",
        "        top = a if a > top or a != a else top",
        "    out[j] = top",
    ]
    if norm == math.inf:
        return lines
    return [
        *lines,
        f"totals, scales = {_WIDE_ROW}, {_WIDE_ROW}",
        "for j in range(LANES):",  # as `stop_text.norm_lines`, in the same order
        "    totals[j] = 0.0",
        "    scales[j] = out[j] if out[j] > 0.0 and math.isfinite(out[j]) else 1.0",
        "i = np.uint64(0)",
        "for _ in range(n // REALS):",
        "    for j in range(np.uint64(LANES)):",
        "        for _ in range(REALS):",
        *indented([*element("i"), "a = np.float64(d) / scales[j]"], 3),
        "            totals[j] += a * a",
        "            i += np.uint64(1)",
        "for j in range(LANES):",
        "    if out[j] > 0.0 and math.isfinite(out[j]):",
        "        out[j] *= math.sqrt(totals[j])",
    ]


# The first iterate is kept whatever its f is. Of an iteration with n = 2, the gradient takes 5 %
# and its norm 1 %; to evaluate them again at the end would call the objective of a problem that
# has raised, and count evaluations that `minimize` does not have.
_KEEP_ONE = """\
if first or (f[0] < f_best[0] and math.isfinite(f[0])):
    f_best[0], norm_best[0] = f[0], norms[0]
    for i in range(n):
        best[i], best_g[i] = ps[i], gs[i]"""
_KEEP = f"""\
better = {_WIDE_ROW}
for j in range(LANES):
    low = first or (f[j] < f_best[j] and math.isfinite(f[j]))
    f_best[j] = f[j] if low else f_best[j]
    for c in range(REALS):
        better[REALS * j + c] = 1.0 if low else 0.0
for j in range(LANES):  # both are read before the choice, or it does not vectorise
    a, b = norms[j], norm_best[j]
    norm_best[j] = a if better[REALS * j] > 0.0 else b
at, row = np.uint64(0), np.uint64(WIDE)
for _ in range(n // REALS):
    for j in range(row):
        a, b, c, d = ps[at + j], best[at + j], gs[at + j], best_g[at + j]
        best[at + j] = a if better[j] > 0.0 else b
        best_g[at + j] = c if better[j] > 0.0 else d
    at += row"""


def _learn(bounds: str) -> list[str]:
    """Note the first gradients, where the norm has not risen."""
    lines = ["for i in range(np.uint64(n * LANES)):", *indented(tt.released(bounds, "i"))]
    lines += ["    a, j = abs(d), i % np.uint64(WIDE)"]
    lines += ["    if a > firsts[i] and norms[j // REALS] <= first[j // REALS]:"]
    return [*lines, "        firsts[i] = a"]


def _limits(bounds: str) -> list[str]:
    """Write the limit of each problem: `gtol` alone where a component is not at rest."""
    lines = ["for j in range(count):", "    out[j] = limit[j]"]
    lines += ["    if not gtol < norms[j] <= limit[j]:", "        continue"]
    lines += ["    for m in range(n):"]
    lines += ["        i = np.uint64(m // REALS * WIDE + j * REALS + m % REALS)"]
    lines += indented([*tt.released(bounds, "i"), "a = abs(np.float64(d))"], 2)
    lines += ["        if a > share * firsts[i] and firsts[i] > 0:", "            out[j] = gtol"]
    return [*lines, "            break"]


def _test_packet(text: StepText, ends: str) -> list[str]:
    """Test the iterates of `count` problems of a packet; 0 where all of them go on.

    Long, for the views of all that the tests read are made here, once for a packet.
    """
    plan, names, lines = text.plan, ["p", "g"], []
    names += ["low", "high"] if plan.bounds == "array" else []
    bytes_x = plan.stride(pl.P)
    for name in names:
        address = f"arrays[{text.arrays.index(name)}] + skip"
        lines += [_view(text.views[name], address, "one", "all_n")]
    row = "w[VALUES] + 8 * (first + w[POSITIONS] * {})"
    for name, place in {
        "f": VALUE_F,
        "f_best": VALUE_BEST,
        "norm_best": VALUE_BEST_NORM,
        "norms": VALUE_NORM,
        "first_norm": VALUE_FIRST,
        "limit": VALUE_LIMIT,
        "f_before": VALUE_BEFORE,
    }.items():
        lines += [_view(name, row.format(place), "1.0", "LANES")]
    given = f"ps, gs{ends}"
    return [
        "gtol, ftol, xtol, gtol_rel = tolerances",
        "later, n, all_n = number > 0, w[NUMBERS], w[NUMBERS] * LANES",
        f"skip = first * w[UPDATES] * {bytes_x}",
        _view("arrays", "w[TABLE]", "w[0]", "ARRAYS"),
        *lines,
        _view("best", "w[BEST] + skip", "one", "all_n"),
        _view("best_g", "w[BEST_G] + skip", "one", "all_n"),
        _view("firsts", "w[FIRSTS] + skip", "one", "all_n"),
        _view("tests", "w[TESTS] + 8 * first", "w[0]", "LANES"),
        f"steep(norms, n, {given})",
        "if not later:",
        "    for j in range(LANES):",
        "        first_norm[j] = norms[j]",
        "        limit[j] = gradient_limit(gtol, gtol_rel, norms[j])",
        "if number <= 1:",
        f"    learn(n, {given}, firsts, norms, first_norm)",
        "keep_best(n, ps, gs, best, best_g, f, norms, f_best, norm_best, not later)",
        "gradient_alone = ftol == 0.0 and xtol == 0.0",
        "if gradient_alone and gradient_tests(count, tests, f, norms, limit) == 0:",
        "    return np.int64(0)",
        f"own = {_WIDE_ROW}",
        "share = share_of_own(gtol_rel)",
        f"limits(own, count, n, {given}, firsts, norms, limit, gtol, share)",
        "if gradient_alone:",
        "    return gradient_tests(count, tests, f, norms, own)",
        f"way, length = {_WIDE_ROW}, {_WIDE_ROW}",
        "if xtol > 0.0 and later:",
        "    befores = carray(pointer(w[BEFORE] + skip, one), all_n)",
        "    far(way, n, ps, befores)",
        "    large(length, n, ps)",
        "return all_tests(count, tests, f, f_before, norms, way, length, later, own, ftol, xtol)",
    ]


# --- text: steps of a block ----------------------------------------------------------------------


def _step_each(text: StepText, own_lr: bool) -> list[str]:
    """Step problems one by one, each with an lr or a clip of its own; one lane to a packet."""
    plan, place, carried = text.plan, _Scratch(text, 0), len(text.plan.products)
    lines = ["updates, changing = w[UPDATES], w[CHANGING]", f"blocks = -(-updates // {NORM_BLOCK})"]
    lines += [f"at = w[SCRATCH] + 8 * b * ({place.sums} + blocks)"]
    lines += [_view("control", "at", "1.0", place.row)]
    lines += [_view("row", f"at + {8 * place.row}", "one", "WIDTH")]
    lines += [_view("q", f"at + {8 * place.products}", "1.0", 2 * carried)]
    lines += [_view("totals", f"at + {8 * place.totals}", "1.0", "(1, 2)")]
    lines += [_view("sums", f"at + {8 * place.sums}", "1.0", "blocks")]
    lines += [_word("no_blocks", "NO_BLOCKS", "w[0]", "(blocks, 5)")]
    lines += [_word("arrays", "TABLE", "w[0]", "(1, ARRAYS)")]
    lines += [_word("columns", "COLUMNS", "w[0]", "changing")]
    lines += [_word("changes", "CHANGES", "1.0", "(w[STEPS], changing)")]
    lines += [_word("of_group", "CONTROL", "1.0", "CONTROLS")]
    # schedules besides lr have changed the control row to the last step of the table
    lines += ["for c in range(CONTROLS):", "    control[c] = of_group[c]"]
    lines += ["for c in range(changing):", "    control[columns[c]] = changes[begin + it, c]"]
    address = f"w[SCALARS] + {plan.real.itemsize} * WIDTH * it"
    lines += [_view("shared", address, "one", "WIDTH")]
    body = ["for c in range(WIDTH):", "    row[c] = shared[c]"]
    if own_lr:
        lines += [_word("products", "PRODUCTS", "1.0", "(it + 1, 2 * COUNT)")]
        lines += [_word("own", "OWN_LR", "1.0", "w[POSITIONS]")]
        lines += [_word("counters", "COUNTERS", "w[0]", 1)]
        lines += ["t = counters[0] + 1.0 + begin + it"]
        body = ["for k in range(COUNT):", "    q[k] = products[it, k]"]
        body += ["fill(row, control, q, t, own[r])"]
    if plan.clip_norm:
        limit = op.COLUMN.clip_array_norm if plan.norm == "array" else op.COLUMN.clip_norm
        pre = text.scalars.index("pre")
        block = "arrays, 0, start, size, start, row, 2.0 ** -totals[0, 1]"
        body += ["totals[0, 1] = 0.0", "again = True", "while again:"]
        body += ["    for k in range(blocks):", f"        start = r * updates + k * {NORM_BLOCK}"]
        body += [f"        size = min({NORM_BLOCK}, updates - k * {NORM_BLOCK})"]
        body += [f"        sums[k] = square({block})"]
        body += ["    again = add_up(sums, no_blocks, totals)"]
        given = f"control[{limit}], control[{op.COLUMN.margin}], tiny"
        body += [f"pre, factor = clip_factor(totals[0, 0], int(totals[0, 1]), {given})"]
        body += [f"row[{pre}], row[{pre + 1}] = pre, factor"]
    body += ["part(arrays, 0, r * updates, updates, r * updates, row)"]
    return [*lines, "for r in range(first, first + filled):", *indented(body)]


def _step(text: StepText) -> list[str]:
    """Step a block's live packets as one array."""
    address = f"w[SCALARS] + {text.plan.real.itemsize} * WIDTH * it"
    return [
        _view("row", address, "one", "WIDTH"),
        _word("arrays", "TABLE", "w[0]", "(1, ARRAYS)"),
        "begins, n = first * w[UPDATES], filled * w[UPDATES]",
        "part(arrays, 0, begins, n, begins, row)",
    ]


def _block(text: StepText, ends: str) -> list[str]:
    """Some iterations of a block, which the threads share out."""
    plan = text.plan
    lines = [_view("w", "words_at", "words_at", "ALL_WORDS")]
    lines += [_word("tolerance", "TOLERANCES", "1.0", 4)]
    lines += ["tolerances = (tolerance[0], tolerance[1], tolerance[2], tolerance[3])"]
    lines += [_word("of_blocks", "LIVE", "w[0]", "b + 1"), _word("arrays", "TABLE", "w[0]", 2)]
    if plan.bounds == "scalar":
        lines += [_word("control", "CONTROL", "1.0", "CONTROLS")]
        lines += [f"low, high = real(control[{op.COLUMN.low}]), real(control[{op.COLUMN.high}])"]
    given = ", low, high" if plan.bounds == "scalar" else ""
    return [
        *lines,
        "first, live = b * w[BLOCK], of_blocks[b]",
        f"size = w[UPDATES] * {plan.stride(pl.P)}",
        "x_at, g_at = arrays[0] + first * size, arrays[1] + first * size",
        "f_at, order_at = w[VALUES] + 8 * first, w[ORDER] + 8 * first",
        # -1: x0 is evaluated, and no step taken
        "it = np.int64(-1 if w[AT_START] != 0 and begin == 0 else 0)",
        "number, failed = w[DONE] + begin, np.int64(0)",
        "while live > 0 and it < steps:",
        "    filled = (live + LANES - 1) // LANES * LANES",
        "    if it >= 0:",
        "        if w[BEFORE] != 0:",
        "            words = filled * size // 4",
        "            copy_words(w[BEFORE] + first * size, 1, x_at, 1, words, 1)",
        "        step(w, b, first, filled, begin, it)",
        "        number += 1",
        "    failed = call7(w[FUN], live, x_at, g_at, f_at, order_at, w[SHAPE], args_at)",
        "    if failed != 0:",
        "        break",
        "    stopped = np.int64(0)",
        "    for place in range(first, first + live, LANES):",
        "        count = min(LANES, first + live - place)",
        f"        stopped |= test_packet(w, tolerances, place, count, number{given})",
        "    if stopped != 0:",
        "        live = retire_block(w, first, live, number)",
        "    it += 1",
        "count_iterations(w, first, live, number, failed != 0)",
        "of_blocks[b] = live",
        "return 0",
    ]


# --- the loop ------------------------------------------------------------------------------------


class LaneLoop:
    """The compiled loop of a plan over packets of so many problems.

    Attributes
    ----------
    arrays, width : int
        Arrays of a step, in the order of the text; scalars in a row.
    """

    def __init__(self, plan: Plan, lanes: int, own_lr: bool, norm: float) -> None:
        self._plan, self._lanes, self._own_lr, self._norm = plan, lanes, own_lr, norm
        self._text = text = StepText(plan)
        self.arrays, self.width = len(text.arrays), text.width
        self.each = own_lr or plan.clip_norm
        forms = f"{'own-lr-' if own_lr else ''}{'2-norm-' if norm == 2 else ''}"
        self._name = f"{plan.name}-{forms}{lanes}-lanes"

    def scratch(self, updates: int) -> int:
        """Numbers of 8 bytes of scratch of a block."""
        return _Scratch(self._text, updates).size if self.each else 0

    @functools.cached_property
    def source(self) -> str:
        """The module."""
        plan, text, lanes = self._plan, self._text, self._lanes
        bounds = plan.bounds
        ends = {"array": ", lows, highs", "scalar": ", low, high", "": ""}[bounds]
        given = ", low, high" if bounds == "scalar" else ""
        norms = {
            f"steep(out, n, ps, gs{ends})": lambda i: tt.projected(bounds, i),
            "far(out, n, ps, befores)": lambda i: [f"d = ps[{i}] - befores[{i}]"],
            "large(out, n, ps)": lambda i: [f"d = ps[{i}]"],
        }
        step = _step_each(text, self._own_lr) if self.each else _step(text)
        keep = (_KEEP_ONE if lanes == 1 else _KEEP).split("\n")
        functions = [
            *text.functions,
            _COMMON.strip(),
            *(
                function_text(head, _largest(one, self._norm, lanes), _INLINED)
                for head, one in norms.items()
            ),
            function_text(f"learn(n, ps, gs{ends}, firsts, norms, first)", _learn(bounds)),
            function_text(
                f"limits(out, count, n, ps, gs{ends}, firsts, norms, limit, gtol, share)",
                _limits(bounds),
            ),
            function_text(
                "keep_best(n, ps, gs, best, best_g, f, norms, f_best, norm_best, first)",
                keep,
                _INLINED,
            ),
            function_text(
                f"test_packet(w, tolerances, first, count, number{given})",
                _test_packet(text, ends),
                _INLINED,
            ),
            function_text("step(w, b, first, filled, begin, it)", step, _INLINED),
            function_text("block(b, words_at, args_at, begin, steps)", _block(text, ends), ""),
        ]
        return "\n\n\n".join(functions) + "\n"

    @functools.cached_property
    def _scope(self) -> dict[str, Any]:
        plan, text, lanes = self._plan, self._text, self._lanes
        items = tuple(plan.stride(slot) * plan.unit // 4 for slot in text.slots)
        kept = tuple({pl.P: 0, pl.AVERAGE: 3}.get(slot, -1) for slot in text.slots)
        names: dict[str, Any] = {
            "LANES": lanes,
            "REALS": plan.numbers,
            "WIDE": lanes * plan.numbers,
        }
        names |= {"ITEM_WORDS": items, "KEPT": kept, "ARRAYS": self.arrays, "WIDTH": self.width}
        names |= {"COUNT": len(plan.products), "CONTROLS": op.RULE + plan.rule.width}
        names |= {"ALL_WORDS": len(WORD), "ALL_VALUES": VALUES, "RESULTS": RESULTS}
        names |= {"RUNNING": st.RUNNING, "RAISED": st.RAISED, "WORD": np.uint32(0)}
        names |= {
            "call5": call5,
            "call7": call7,
            "lane_memory": lane_memory,
            "real": plan.real.type,
        }
        return {**text.scope, **tt.SCOPE, **WORD._asdict(), **names}

    def _address(self, name: str, source: str, entry: str, arguments: int, **how: Any) -> int:
        what = f"{self._name}{name}", source, self._scope, int64(*[int64] * arguments)
        return build.address(*what, entry=entry, keep=not self._plan.rule.digest, **how)

    @functools.cached_property
    def block(self) -> int:
        """The address of ``block(b, words_at, args_at, begin, steps)``, compiled or loaded now."""
        return self._address("", self.source, "block", 5)

    @functools.cache  # noqa: B019  # loops live as long as the process
    def kernel(self, parallel: bool) -> int:
        """The address of ``kernel(words_at, block_at, args_at)``, compiled or loaded now."""
        source = "\n\n\n".join([*self._text.functions, _KERNEL.strip()]) + "\n"
        return self._address("-blocks", source, "kernel", 3, parallel=parallel)


@functools.cache
def loop_of(plan: Plan, lanes: int, own_lr: bool, norm: float) -> LaneLoop:
    """The loop of a plan."""
    return LaneLoop(plan, lanes, own_lr, norm)

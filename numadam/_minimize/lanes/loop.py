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
from numba import int64, prange

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.text import DECORATOR, function_text, indented
from numadam._cpu.loop import NORM_BLOCK, StepText, text_of
from numadam._jit import build
from numadam._jit.calls import call3, call7
from numadam._jit.private import lane_memory, view
from numadam._minimize import stop_text as tt
from numadam._minimize import stopping as st
from numadam._minimize.compiled.loop import INLINED, clip_text

# --- memory shared with Python -------------------------------------------------------------------


class Words(NamedTuple):
    """Whole numbers and addresses of a batch, or their places.

    A problem has a position, which changes when another one stops, and a number, which is the
    user's. A call of the loop takes some iterations of some blocks.
    """

    UPDATES: int  # element updates of one problem in a step
    NUMBERS: int  # real numbers of one problem
    BLOCK: int  # positions of a block, evaluated by one call and stepped as one array
    FUN: int  # address of `evaluate`
    EACH: int  # rows of scalars of a step: 1, or one for each problem
    MOVES: int  # arrays in `moving`
    # the call at hand
    FIRST_BLOCK: int
    END_BLOCK: int
    STEPS: int  # iterations that it may take
    DONE: int  # iterations before it
    AT_START: int  # 1 as long as x0 has not been evaluated
    FAILED: int  # 1 if the objective raised
    # addresses
    SHAPE: int  # int64: shape of one problem
    TABLE: int  # int64[1, arrays]: addresses of the arrays of a step
    MOVING: int  # int64[moves, 4], for each word of the elements of an array: its address in lanes;
    # elements of one problem; words of an element; address in rows by number, which get what
    # stops, or 0
    VALUES: int  # float64, of each problem `stop_text.Numbers`, see `numbers_each`; as x in lanes
    TOLERANCES: int  # float64[4]: gtol, gtol_rel, ftol, xtol
    TESTS: int  # int64[positions]: RUNNING, or the test that holds
    BEFORE: int  # x before the step, 0 if no test asks for it
    BEST: int  # best x
    BEST_G: int  # its gradient
    FIRSTS: int  # the first gradient of each number, see `share_of_own`
    SCALARS: int  # [steps * each, width]: rows of scalars
    LIMITS: int  # float64[steps, 2]: limit and margin of a clip by norm
    PARTS: int  # int64[blocks, 5]: of a problem's norm, as a step has them
    CONTROL: int  # float64: the row of the control block
    ORDER: int  # int64[positions]: number of the problem
    CODES: int  # int64[problems]: RUNNING, or the test that holds; by number
    NIT: int  # int64[problems]: iterations taken, by number; of running ones at each call
    LIVE: int  # int64[blocks]: problems that still run; they are the first ones


#: The place of each.
WORD: Any = Words(*range(len(Words._fields)))


# --- text: parts that are the same for all plans -------------------------------------------------


def _view(name: str, address: str, like: str, shape: object) -> str:
    return f"{name} = view({address}, {like}, {shape})"


def _word(name: str, place: str, like: str, shape: object) -> str:
    """A view of an array whose address is a word."""
    return _view(name, f"w[{place}]", like, shape)


_COMMON = f'''
{DECORATOR}
def copy_words(to_at, to_step, of_at, of_step, count):
    """Copy `count` words, which lie `step` words apart."""
    to = view(to_at, WORD, count * to_step)
    of = view(of_at, WORD, count * of_step)
    for i in range(count):
        to[i * to_step] = of[i * of_step]


{DECORATOR}
def retire(w, position, last, number):
    """A problem has stopped: its results go to the place of its number, the last one to its."""
    order = view(w[ORDER], w[0], last + 1)
    moving = view(w[MOVING], w[0], (w[MOVES], 4))
    problem = order[position]
    view(w[NIT], w[0], problem + 1)[problem] = number
    for k in range(w[MOVES]):
        first, n, words, rows = moving[k, 0], moving[k, 1], moving[k, 2], moving[k, 3]
        step = words * LANES
        mine = first + BYTES * words * (position // LANES * n * LANES + position % LANES)
        other = first + BYTES * words * (last // LANES * n * LANES + last % LANES)
        if rows != 0:
            copy_words(rows + BYTES * words * n * problem, words, mine, step, n)
        if position != last:
            copy_words(mine, step, other, step, n)
    order[position] = order[last]


{DECORATOR}
def retire_block(w, first, live, number):
    """Retire all problems of a block that have stopped; how many are left."""
    tests = view(w[TESTS], w[0], first + live)
    for position in range(first + live - 1, first - 1, -1):
        if tests[position] != RUNNING:
            live -= 1
            retire(w, position, first + live, number)
    return live


{DECORATOR}
def count_iterations(w, first, live, number, failed):
    """Note how far the problems that run have come, and whether the objective raised."""
    order = view(w[ORDER], w[0], first + live)
    for position in range(first, first + live):
        problem = order[position]
        view(w[NIT], w[0], problem + 1)[problem] = number
        if failed:
            w[FAILED] = 1
            view(w[CODES], w[0], problem + 1)[problem] = RAISED


{INLINED}
def all_go_on(count, f, norms, limit):
    """Whether no test of the gradient or of f holds for any of `count` problems."""
    stopped = np.int64(0)
    for j in range(np.uint64(count)):
        stopped |= np.int64(not (limit[j] < norms[j] and norms[j] + abs(f[j]) < math.inf))
    return stopped == 0


{DECORATOR}
def all_tests(count, tests, f, f_before, norms, way, length, later, limit, ftol, xtol):
    """All tests of `count` problems; 0 where all of them go on."""
    stopped = np.int64(0)
    for j in range(np.uint64(count)):
        limits = (limit[j], ftol, xtol)
        code = check_convergence(f[j], f_before[j], norms[j], way[j], length[j], later, limits)
        tests[j], f_before[j] = code, f[j]
        stopped |= np.int64(code != RUNNING)
    return stopped
'''

#: The blocks of a call, which the threads share out: the same for all plans.
_KERNEL = """\
def kernel(words_at, block_at, args_at):
    w = view(words_at, words_at, ALL_WORDS)
    first = w[FIRST_BLOCK]
    for b in prange(w[END_BLOCK] - first):
        call3(block_at, first + np.int64(b), words_at, args_at)
    return 0
"""


# --- text: tests of a packet ---------------------------------------------------------------------

#: A row of numbers of float64, one for each lane, or real number of a lane.
_WIDE_ROW = "carray(lane_memory(), WIDE)"


def _largest(element: Callable[[str], list[str]], norm: float) -> list[str]:
    """Write the norm of each lane's elements into `out`; NaN where one is.

    `n` are the real numbers of one problem. ``element(i)`` are lines that set `d`.
    """
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


def _test_lanes(ends: str) -> list[str]:
    """Test the iterates of the lanes, of which `count` are in use."""
    rows = {"f": "F", "norms": "SIZE", "f_before": "F_BEFORE", "first": "FIRST", "limit": "LIMIT"}
    rows |= {"f_best": "F_BEST", "norm_best": "SIZE_BEST"}
    row = "numbers_at + 8 * LANES * {}"
    given = f"ps, gs{ends}"
    return [
        *(_view(name, row.format(place), "1.0", "LANES") for name, place in rows.items()),
        _word("its", "TOLERANCES", "1.0", 4),
        "gtol, gtol_rel, ftol, xtol = its[0], its[1], its[2], its[3]",
        f"steep(norms, n, {given})",
        "if not later:",
        "    for j in range(LANES):",
        "        first[j] = norms[j]",
        "        limit[j] = gradient_limit(gtol, gtol_rel, norms[j])",
        "if number <= 1:",
        f"    learn(n, {given}, firsts, norms, first)",
        "keep_best(n, ps, gs, best, best_g, f, norms, f_best, norm_best, not later)",
        "if ftol == 0.0 and xtol == 0.0 and all_go_on(count, f, norms, limit):",
        "    return np.int64(0)",
        f"own, share = {_WIDE_ROW}, share_of_own(gtol_rel)",
        f"limits(own, count, n, {given}, firsts, norms, limit, gtol, share)",
        f"way, length = {_WIDE_ROW}, {_WIDE_ROW}",
        "if xtol > 0.0 and later:",
        "    far(way, n, ps, befores)",
        "    large(length, n, ps)",
        "return all_tests(count, tests, f, f_before, norms, way, length, later, own, ftol, xtol)",
    ]


def _test_alone(plan: Plan, norm: float) -> list[str]:
    """Test the iterate of a problem that is alone in its packet: the lines of `minimize`."""
    return [
        _view("numbers", "numbers_at", "1.0", "NUMBERS_EACH"),
        f"f, early, count, tops = numbers[F], number <= 1, n, {_WIDE_ROW}",
        *tt.test_lines(plan.bounds, norm),
        "if not later or (f < numbers[F_BEST] and math.isfinite(f)):",
        "    numbers[F_BEST], numbers[SIZE_BEST] = f, size",
        "    for i in range(n):",
        "        best[i], best_g[i] = ps[i], gs[i]",
        "tests[0] = code",
        "return np.int64(code)",
    ]


def _test_packet(text: StepText, norm: float, lanes: int, ends: str) -> list[str]:
    """Test the iterates of a packet from position `begin` on; 0 where all of them go on."""
    names = ["p", "g", *(["low", "high"] if text.plan.bounds == "array" else [])]
    places = {text.views[name]: f"arrays[{text.arrays.index(name)}]" for name in names}
    places |= {"befores": "w[BEFORE]", "best": "w[BEST]", "best_g": "w[BEST_G]"}
    places |= {"firsts": "w[FIRSTS]"}
    return [
        "n, later = w[NUMBERS], number > 0",
        f"skip = begin * w[UPDATES] * {text.plan.stride(pl.P)}",
        _word("arrays", "TABLE", "w[0]", "ARRAYS"),
        *(_view(name, f"{at} + skip", "one", "n * LANES") for name, at in places.items()),
        _view("tests", "w[TESTS] + 8 * begin", "w[0]", "LANES"),
        "numbers_at = w[VALUES] + 8 * NUMBERS_EACH * begin",
        *(_test_alone(text.plan, norm) if lanes == 1 else _test_lanes(ends)),
    ]


# --- text: steps of a block ----------------------------------------------------------------------


def _row(text: StepText, place: str) -> str:
    """The scalars of a step."""
    return _view(
        "row", f"w[SCALARS] + {text.plan.real.itemsize} * WIDTH * ({place})", "one", "WIDTH"
    )


def _step_each(text: StepText, own_lr: bool) -> list[str]:
    """Step problems one by one, each with an lr or a clip of its own; one lane to a packet."""
    body = [_row(text, "it * w[EACH] + order[r]" if own_lr else "it")]
    if text.plan.clip_norm:
        body += [
            "own_row[:] = row",
            "row = own_row",
            "limit, margin = limits[it, 0], limits[it, 1]",
        ]
        body += ["clip(arrays, r * w[UPDATES], parts, sums, totals, limit, margin, row)"]
    body += ["part(arrays, 0, r * w[UPDATES], w[UPDATES], r * w[UPDATES], row)"]
    return ["for r in range(first, first + live):", *indented(body)]


def _step(text: StepText) -> list[str]:
    """Step a block's live packets as one array."""
    lines = ["begins, n = first * w[UPDATES], filled * w[UPDATES]"]
    return [*lines, _row(text, "it"), "part(arrays, 0, begins, n, begins, row)"]


def _block(text: StepText, own_lr: bool) -> list[str]:
    """Some iterations of a block, which the threads share out."""
    plan = text.plan
    lines = [_view("w", "words_at", "words_at", "ALL_WORDS")]
    lines += [_word("of_blocks", "LIVE", "w[0]", "b + 1")]
    lines += [_word("arrays", "TABLE", "w[0]", "(1, ARRAYS)")]
    lines += [_word("order", "ORDER", "w[0]", "(b + 1) * w[BLOCK]")]
    given = ""
    if plan.bounds == "scalar":
        lines += [_word("control", "CONTROL", "1.0", op.RULE)]
        lines += [f"low, high = real(control[{op.COLUMN.low}]), real(control[{op.COLUMN.high}])"]
        given = ", low, high"
    if plan.clip_norm:
        lines += [f"count = -(-w[UPDATES] // {NORM_BLOCK})"]
        lines += [_word("parts", "PARTS", "w[0]", "(count, 5)")]
        lines += [_word("limits", "LIMITS", "1.0", "(w[STEPS], 2)")]
        lines += [
            "sums, totals, own_row = np.empty(count), np.zeros((1, 2)), np.empty(WIDTH, real)"
        ]
    step = _step_each(text, own_lr) if own_lr or plan.clip_norm else _step(text)
    return [
        *lines,
        "first, live = b * w[BLOCK], of_blocks[b]",
        f"size = w[UPDATES] * {plan.stride(pl.P)}",
        "x_at, g_at = arrays[0, 0] + first * size, arrays[0, 1] + first * size",
        "f_at, order_at = w[VALUES] + 8 * NUMBERS_EACH * first, w[ORDER] + 8 * first",
        # -1: x0 is evaluated, and no step taken
        "it = np.int64(-1 if w[AT_START] != 0 else 0)",
        "number, failed = w[DONE], np.int64(0)",
        "while live > 0 and it < w[STEPS]:",
        "    filled = (live + LANES - 1) // LANES * LANES",
        "    if it >= 0:",
        "        if w[BEFORE] != 0:",
        "            words = filled * size // BYTES",
        "            copy_words(w[BEFORE] + first * size, 1, x_at, 1, words)",
        *indented(step, 2),
        "        number += 1",
        "    failed = call7(w[FUN], live, x_at, g_at, f_at, order_at, w[SHAPE], args_at)",
        "    if failed != 0:",
        "        break",
        "    stopped = np.int64(0)",
        "    for begin in range(first, first + live, LANES):",
        "        count = min(LANES, first + live - begin)",
        f"        stopped |= test_packet(w, begin, count, number{given})",
        "    if stopped != 0:",
        "        live = retire_block(w, first, live, number)",
        "    it += 1",
        "count_iterations(w, first, live, number, failed != 0)",
        "of_blocks[b] = live",
        "return 0",
    ]


def _source(plan: Plan, lanes: int, own_lr: bool, norm: float) -> str:
    """The module of a plan's blocks."""
    text, bounds = text_of(plan), plan.bounds
    ends = {"array": ", lows, highs", "scalar": ", low, high", "": ""}[bounds]
    given = ", low, high" if bounds == "scalar" else ""
    functions = [*text.functions, _COMMON.strip()]
    if plan.clip_norm:
        functions += [clip_text(text)]
    if lanes > 1:
        norms = {
            f"steep(out, n, ps, gs{ends})": lambda i: tt.projected(bounds, i),
            "far(out, n, ps, befores)": lambda i: [f"d = ps[{i}] - befores[{i}]"],
            "large(out, n, ps)": lambda i: [f"d = ps[{i}]"],
        }
        functions += [
            function_text(head, _largest(element, norm), INLINED) for head, element in norms.items()
        ]
        more = "firsts, norms, limit, gtol, share"
        best = "n, ps, gs, best, best_g, f, norms, f_best, norm_best, first"
        functions += [
            function_text(f"learn(n, ps, gs{ends}, firsts, norms, first)", _learn(bounds)),
            function_text(f"limits(out, count, n, ps, gs{ends}, {more})", _limits(bounds)),
            function_text(f"keep_best({best})", _KEEP.split("\n"), INLINED),
        ]
    test = _test_packet(text, norm, lanes, ends)
    functions += [function_text(f"test_packet(w, begin, count, number{given})", test, INLINED)]
    functions += [function_text("block(b, words_at, args_at)", _block(text, own_lr), "")]
    return "\n\n\n".join(functions) + "\n"


# --- what is compiled ----------------------------------------------------------------------------


_SCOPE: dict[str, Any] = {
    **tt.SCOPE,
    **WORD._asdict(),
    "RUNNING": st.RUNNING,
    "RAISED": st.RAISED,
    "ALL_WORDS": len(WORD),
    "call7": call7,
    "lane_memory": lane_memory,
}


def numbers_each(lanes: int) -> int:
    """The count of `stop_text.Numbers` of a problem: the first ones, or all where it is alone."""
    return len(tt.NUMBER_AT) if lanes == 1 else tt.NUMBER_AT.WAY


@functools.cache
def block_of(plan: Plan, lanes: int, own_lr: bool, norm: float) -> int:
    """The address of ``block(b, words_at, args_at)``, compiled or loaded now."""
    text = text_of(plan)
    forms = f"{'own-lr-' if own_lr else ''}{'2-norm-' if norm == 2 else ''}"
    scope = {**text.scope, **_SCOPE, "real": plan.real.type, "LANES": lanes}
    scope |= {"NUMBERS_EACH": numbers_each(lanes)}
    scope |= {"REALS": plan.numbers, "WIDE": lanes * plan.numbers}
    scope |= {"ARRAYS": len(text.arrays), "WIDTH": text.width, "BYTES": plan.real.itemsize}
    scope |= {"WORD": np.dtype(f"u{plan.real.itemsize}").type(0)}
    return build.address(
        f"{plan.name}-{forms}{lanes}-lanes",
        _source(plan, lanes, own_lr, norm),
        scope,
        int64(int64, int64, int64),
        entry="block",
        keep=not plan.rule.digest,
    )


@functools.cache
def kernel(parallel: bool) -> int:
    """The address of ``kernel(words_at, block_at, args_at)``, compiled or loaded now."""
    scope = {name: WORD._asdict()[name] for name in ("FIRST_BLOCK", "END_BLOCK")}
    scope |= {"ALL_WORDS": len(WORD), "view": view}
    scope |= {"np": np, "prange": prange, "call3": call3}
    signature = int64(int64, int64, int64)
    return build.address("blocks", _KERNEL, scope, signature, entry="kernel", parallel=parallel)

"""The compiled step of a plan on the CPU: the frame around the element's text.

One function takes a whole step: scalars of every group, norms, every part, and last the counters.
What it reads and writes lies in arrays that Python made; `Frame` says where.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import float64, from_dtype, int64, prange, types

from numadam._arrays.interop import address_of
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.norms import clip_factor, norm
from numadam._core.plan import Plan
from numadam._core.scalars import is_due, tiny
from numadam._core.text import DECORATOR, Text, function_text, indented, scope_of
from numadam._jit import process
from numadam._jit.build import compiled
from numadam._jit.private import view, words
from numadam._jit.process import Writes, at_once, defer_interrupts
from numadam._settings.settings import same_numbers

if TYPE_CHECKING:
    from numadam._cpu.memory import StepMemory
    from numadam._mpi import StepExchange

#: What a step returns: it was taken; its only arrays do not fit, or share memory; the guard stopped
#: it; its rows have been counted by another step in between.
OK, UNFIT, NOT_FINITE, STALE = range(4)
#: Stages of a call: the whole step; the sums of squares of this process alone; the rest, with
#: those of all processes.
WHOLE, MEASURE, FOLLOW = range(3)
#: In a frame: the arrays are in the table.
IN_TABLE = -1

#: Numbers of a block of a norm: its squares are added in a fixed order, whatever the threads.
NORM_BLOCK = 4096
#: Power of two by which numbers are divided whose squares overflow, or multiplied.
_EXPONENT = 600.0
#: Squares that are added side by side in a block, so that the loop vectorises.
_LANES = 64


class Frame(NamedTuple):
    """Words of an int64 array: how many there are of what, and the addresses of their arrays."""

    table: int  # int64[leaves, arrays]: addresses, in the order of the text's arrays
    leaves: int
    arrays: int
    stage: int
    only: int  # elements of the only array, which a call brings, or `IN_TABLE`
    control: int  # float64[groups, columns]: the control block
    groups: int
    columns: int
    rows: int  # numbers[rows, width]: scalars, which the step fills
    row_count: int
    parts: int  # int64[n, 5]: leaf, first number, numbers, first of the gradient, row of scalars
    chunks: int  # int64[n + 1]: where the parts of each chunk, the work of a thread, begin
    chunk_count: int
    blocks: int  # as parts: what a partial sum of a norm is taken over
    block_count: int
    sums: int  # float64[blocks]
    totals: int  # float64[norms, 2]: sum of squares of numbers times 2**-exponent; exponent
    norms: int  # float64[leaves + 1]: of each leaf at the last step; last that of all
    owners: int  # int64[rows, 2]: group and leaf of each row of scalars
    products: int  # float64[groups, 2 * products]: before the step, then after it
    counters: int  # int64[3]: steps taken, skipped, skipped in a row
    guard: int
    state: int  # the first byte of counters, products and state arrays, and the one behind
    state_end: int
    steps: int  # with counts of their own: the steps taken that `times` are for
    times: int  # float64[rows]: the step of each row of scalars
    counted: int  # int64[n]: addresses of the counts of this step's rows
    counted_size: int


#: The place of each word, by name.
AT = Frame(*range(len(Frame._fields)))


def _array(name: str, kind: str, *shape: str) -> str:
    """A view of an array whose address is in the frame."""
    size = ", ".join(shape) if len(shape) < 2 else f"({', '.join(shape)})"
    return f"{name} = view(frame[{getattr(AT, name)}], {kind}, {size})"


def _word(name: str) -> str:
    """A word of the frame."""
    return f"frame[{getattr(AT, name)}]"


class StepText:
    """The module of one plan: `text` and the `scope` that it reads; `entry` is ``step``.

    `functions` are those of the text that loops with steps of their own call, too: ``fill``,
    ``part``, and ``square`` and ``add_up`` where there is a norm.
    """

    def __init__(self, plan: Plan, out: bool = False) -> None:
        self.plan, self._text = plan, Text(plan, out)
        self.arrays, self.slots = self._text.arrays, self._text.slots
        self.scalars, self.views = self._text.scalars, self._text.views
        self._item, self._each = plan.real.itemsize, 2 if plan.modulus else 1
        self._resting = self._find_resting()
        #: scalars of a row: those of the text, then what `_settle` needs
        self.width = len(self._text.scalars) + 2 * bool(self._resting)
        self.functions = functions = [self._fill(), self._part()]
        if self._resting:
            functions.insert(0, _SETTLE)
        if plan.norm:
            functions += [self._square(), self._add_up()]
        walk = [self._walk()] if plan.by_row and plan.products else []
        self.text = "\n\n\n".join([*walk, *functions, self._step()]) + "\n"

    @property
    def scope(self) -> dict[str, Any]:
        """The names that the text reads."""
        names = {"view": view, "words": words, "prange": prange, "is_due": is_due}
        names |= {"clip_factor": clip_factor, "norm_of": norm} if self.plan.norm else {}
        return scope_of(self.plan) | names

    # --- denormal numbers ------------------------------------------------------------------------
    # What decays by a factor ends among them, where each operation is slow: 0.9 times the last
    # units rounds to itself. At about one step in 64 these numbers become 0, in a small loop behind
    # that of the step. Chosen by t alone, so a run that goes on from a file has the same bits.

    def _find_resting(self) -> dict[str, str]:
        """The arrays whose numbers decay by a factor, and the threshold of each."""
        plan, text = self.plan, self._text
        found = {s: "least_state" for s in text.states if s not in plan.rule.lasting}
        if plan.decay and not text.out:
            found["p"] = "least"
        return found | ({"average": "least"} if "average" in text.arrays else {})

    def _thresholds(self) -> list[str]:
        """Two scalars behind those of the text: what is smaller becomes 0 at this step.

        State beside an eps so small that it shows there stays as it is. The square root of v is
        added to eps: one below `small` is less than a thousandth of the sum.
        """
        names, small = [hyper.name for hyper in self.plan.rule.hypers], tiny(self.plan.real)
        limits = {"eps": 2.0**10 * small**0.5, "eps_root": 2.0**20 * small}
        hides = [f"c.{name} >= {limit!r}" for name, limit in limits.items() if name in names]
        k, hidden = len(self._text.scalars), " or ".join(hides) or "True"
        least = f"tiny * control[{op.COLUMN.flush}]"
        return [
            f"row[{k}] = {least} if is_due(np.int64(t)) else 0.0  # least",
            f"row[{k + 1}] = row[{k}] if {hidden} else 0.0  # least_state",
        ]

    def _settle(self) -> list[str]:
        """Lines behind the loop of a part."""
        if not self._resting:
            return []
        views, k = self._text.views, len(self._text.scalars)
        lines = [f"least, least_state = row[{k}], row[{k + 1}]", "if least > h.zero:"]
        for name, least in self._resting.items():
            call = f"    settle({views[name]}, {least})"
            if name == "p" and self.plan.bounds == "array":
                call = f"    settle_inside({views['p']}, lows, highs, {least})"
            elif name == "p" and self.plan.bounds:
                lines += ["    if low <= h.zero and h.zero <= high:"]
                call = f"    {call}"
            lines += [call]
        return lines

    # --- functions of the module -----------------------------------------------------------------

    def _fill(self) -> str:
        """``fill(row, control, products, t, lr)``: the scalars of a group."""
        lines = self._text.fill() + (self._thresholds() if self._resting else [])
        return function_text("fill(row, control, products, t, lr)", lines)

    def _view(self, name: str, n: str = "n") -> str:
        """A view of an array of a leaf, from its address in the table."""
        text, column = self._text, self.arrays.index(name)
        each = 1 if self.plan.whole(text.slots[column]) else self._each
        start, size = "begin" if name == "g" else "start", each * self._item
        count = n if each == 1 else f"{each} * {n}"
        address = f"table[leaf, {column}] + {size} * {start}"
        return f"{text.views[name]} = view({address}, row, {count})"

    def _part(self) -> str:
        """``part(table, leaf, start, n, begin, row)``: n elements of a leaf."""
        text = self._text
        # a loop counts from 0: one from `start` on does not vectorise
        loop = ["for i in range(n):", *indented(text.element())]
        lines = [*text.head(), *map(self._view, text.arrays), *loop, *self._settle()]
        return function_text("part(table, leaf, start, n, begin, row)", lines)

    def _square(self) -> str:
        """``square(table, leaf, start, n, begin, row, scale)``: squares of a block, in float64."""
        text, scaled = self._text, self.plan.real == np.float64
        each = self._each
        element = [*text.norm_element(), f"x = np.float64(g){' * scale' if scaled else ''}"]
        lines = [*text.head()] if self.plan.bounds else []
        lines += [self._view(name) for name in text.norm_arrays]
        lines += [f"n = {each} * n"] * (each > 1)
        lines += [f"sums = np.zeros({_LANES})", f"whole = n - n % {_LANES}"]
        lines += [f"for j in range(0, whole, {_LANES}):", f"    for k in range({_LANES}):"]
        lines += indented(["i = j + k", *element, "sums[k] += x * x"], 2)
        lines += ["for i in range(whole, n):", *indented([*element, "sums[0] += x * x"])]
        lines += ["total = 0.0", f"for k in range({_LANES} if whole > 0 else 1):"]
        lines += ["    total += sums[k]"]
        return function_text(
            "square(table, leaf, start, n, begin, row, scale)", [*lines, "return total"]
        )

    def _add_up(self) -> str:
        """``add_up(sums, blocks, totals)``: the sum of each norm; whether to form them again.

        Squares of float64 may overflow, or underflow so that their sum lacks digits. Then the
        numbers are multiplied by a power of two.
        """
        n = "blocks[b, 0]" if self.plan.norm == "array" else "0"
        lines = ["again = False", "for n in range(len(totals)):", "    totals[n, 0] = 0.0"]
        lines += ["for b in range(len(sums)):", f"    totals[{n}, 0] += sums[b]"]
        if self.plan.real == np.float64:
            lines += ["for n in range(len(totals)):", "    total = totals[n, 0]"]
            lines += ["    if totals[n, 1] == 0.0 and not 1e-280 <= total < inf:"]
            lines += [f"        totals[n, 1] = {_EXPONENT} if total == inf else -{_EXPONENT}"]
            lines += ["        again = total == total or again"]
        return function_text("add_up(sums, blocks, totals)", [*lines, "return again"])

    def _walk(self) -> str:
        """``walk(products, control, taken, t) -> taken``: from after a step to before step t.

        A product so small that nothing which adds it to 1 can tell is not formed on.
        """
        count = len(self.plan.products)
        matters = " or ".join(f"products[{k}] >= {2.0**-128!r}" for k in range(count))
        follow = [f"products[{k}] = products[{count + k}]" for k in range(count)]
        lines = [*self._text.hypers(), "last = t", "t = taken + 1.0"]
        lines += [f"while t < last and ({matters}):"]
        body = [*self._text.products(), *follow, "t += 1.0"]
        return function_text(
            "walk(products, control, taken, t)", [*lines, *indented(body), "return t - 1.0"]
        )

    def _fills(self) -> list[str]:
        """Lines that fill all rows of scalars."""
        each = ["r = owners[k, 0]", "fill(rows[k], control[r], products[r], t, lr)"]
        if self.plan.by_row:
            each = ["r, t = owners[k, 0], times[k]", "fill(rows[k], control[r], q, t, lr)"]
            if self.plan.products:
                begins = "k == 0 or t <= taken or owners[k, 1] != owners[k - 1, 1]"
                each[1:1] = [f"if {begins}:", "    taken = 0.0", "    q[:] = 1.0"]
                each[-1:-1] = ["taken = walk(q, control[r], taken, t)"]
        return ["for k in range(len(rows)):", *indented(each)]

    def _norms(self) -> list[str]:
        """Lines for norms, guard and the factors of a clip."""
        plan, scalars, column = self.plan, self._text.scalars, op.COLUMN
        of_array = plan.norm == "array"
        n = "blocks[b, 0]" if of_array else "0"
        limit = column.clip_array_norm if of_array else column.clip_norm
        block = "table, blocks[b, 0], blocks[b, 1], blocks[b, 2], blocks[b, 3], rows[blocks[b, 4]]"
        lines = [
            _array("blocks", "np.int64", _word("block_count"), "5"),
            _array("sums", "np.float64", _word("block_count")),
            _array("totals", "np.float64", "len(table)" if of_array else "1", "2"),
            _array("norms", "np.float64", "len(table) + 1"),
            f"if {_word('stage')} != {FOLLOW}:",
            "    totals[:, 1] = 0.0",
            "    again = True",
            "    while again:",
            "        for b in prange(len(blocks)):",
            f"            scale = 2.0 ** -totals[{n}, 1]",
            f"            sums[b] = square({block}, scale)",
            "        again = add_up(sums, blocks, totals)",
            f"if {_word('stage')} == {MEASURE}:",
            f"    return {OK}",
            "is_finite = True",
            "for n in range(len(totals)):",
            "    size = norm_of(totals[n, 0], int(totals[n, 1]))",
            f"    norms[{'n' if of_array else 'len(table)'}] = size",
            f"    bounded = min(size, control[0, {limit}]) <= control[0, {column.largest_norm}]",
            "    is_finite = is_finite and math.isfinite(totals[n, 0]) and bounded",
            f"if not is_finite and {_word('guard')} != {pl.PROPAGATE}:",
            f"    if {_word('guard')} == {pl.SKIP}:",
            "        counters[1] += 1",
            "        counters[2] += 1",
            f"    return {NOT_FINITE}",
        ]
        if plan.clip_norm:
            factor = f"control[0, {limit}], control[0, {column.margin}], tiny"
            pre = scalars.index("pre")
            lines += [
                "for k in range(len(rows)):",
                f"    n = {'owners[k, 1]' if of_array else '0'}",
                f"    pre, factor = clip_factor(totals[n, 0], int(totals[n, 1]), {factor})",
                f"    rows[k, {pre}], rows[k, {pre + 1}] = pre, factor",
            ]
        return lines

    def _step(self) -> str:
        """The whole step, see `Step`."""
        plan, count = self.plan, len(self.plan.products)
        lines = [
            f"frame = words(at, {len(AT)})",
            _array("table", "np.int64", _word("leaves"), _word("arrays")),
            _array("counters", "np.int64", "3"),
            _array("control", "np.float64", _word("groups"), _word("columns")),
            _array("rows", f"np.{plan.real.name}", _word("row_count"), str(self.width)),
            _array("owners", "np.int64", "len(rows)", "2"),
            _array("products", "np.float64", "len(control)", f"{2 * count}"),
            _array("chunks", "np.int64", f"{_word('chunk_count')} + 1"),
            _array("parts", "np.int64", "chunks[-1]", "5"),
        ]
        if plan.by_row:
            lines += [f"if counters[0] != {_word('steps')}:", f"    return {STALE}"]
            lines += [_array("times", "np.float64", "len(rows)"), "taken = 0.0"]
            lines += [f"q = np.ones({2 * count})"]
        lines += self._one_array() + ["t = counters[0] + 1.0", *self._fills()]
        lines += self._norms() if plan.norm else []
        part = "table, parts[b, 0], parts[b, 1], parts[b, 2], parts[b, 3], rows[parts[b, 4]]"
        lines += [
            "for c in prange(len(chunks) - 1):",
            "    for b in range(chunks[c], chunks[c + 1]):",
            f"        part({part})",
        ]
        if plan.by_row:
            lines += [_array("counted", "np.int64", _word("counted_size"))]
            lines += ["for k in range(len(counted)):"]
            lines += ["    view(counted[k], counted[k], 1)[0] += 1"]
        if count:
            lines += ["for r in range(len(control)):", f"    for k in range({count}):"]
            lines += [f"        products[r, k] = products[r, {count} + k]"]
        lines += ["counters[2] = 0", "counters[0] += 1", f"return {OK}"]
        return "\n".join(["def step(at, p, g, lr):", *indented(lines)])

    def _one_array(self) -> list[str]:
        """Lines for a call that brings its only array and gradient.

        They have to lie as the text reads them, and must not overlap.
        """
        item, align = self.plan.dtype.itemsize, self._item
        fits = [f"{x}.size == only and {x}.strides[0] == {item}" for x in "pg"]
        meets = [f"{x} < {y}_end and {y} < {x}_end" for x, y in ("xy", "xs", "ys")]
        return [
            f"only = {_word('only')}",
            f"if only != {IN_TABLE}:",
            f"    if not ({fits[0]} and {fits[1]}):",
            f"        return {UNFIT}",
            "    x, y = p.ctypes.data, g.ctypes.data",
            f"    s, s_end = {_word('state')}, {_word('state_end')}",
            f"    x_end, y_end = x + {item} * only, y + {item} * only",
            f"    if (x | y) % {align} != 0 or ({') or ('.join(meets)}):",
            f"        return {UNFIT}",
            "    table[0, 0], table[0, 1] = x, y",
        ]


def _signature(plan: Plan) -> Any:
    """The arguments of `step`, and a status."""
    strided = types.Array(from_dtype(plan.dtype), 1, "A", readonly=True)
    return int64(int64, strided, strided, float64)


@functools.cache
def text_of(plan: Plan, out: bool = False) -> StepText:
    """The text of a plan's step; with `out` it writes its direction and leaves the parameters."""
    return StepText(plan, out)


#: Forms of a step: in one thread that keeps the GIL, as short ones do; in one thread; in several.
HELD, SERIAL, PARALLEL = "held", "serial", "parallel"


@functools.cache
def compiled_step(plan: Plan, out: bool, form: str) -> Callable[..., int]:
    """``step(at, p, g, lr) -> status``, compiled or loaded now.

    `at` is the address of a `Frame`. `p` and `g` are the only parameter and its gradient, of one
    axis: their lengths and strides are checked here, which takes 0.15 us less than in Python.
    Several arrays are in the table, and these two are not looked at. Each array among the arguments
    would take 0.03 us.
    """
    text = text_of(plan, out)
    return compiled(
        f"step-{plan.name}" + ("-out" if out else ""),
        text.text,
        text.scope,
        _signature(plan),
        entry="step",
        parallel=form == PARALLEL,
        keep=not plan.rule.digest,
        shown=plan.words + (", out=" if out else "") + (", in threads" if form == PARALLEL else ""),
        nogil=form != HELD,
    )


# --- the step of some memory ---------------------------------------------------------------------

#: Numbers up to which a step keeps the GIL: below, waiting for it again would cost more than other
#: threads could do meanwhile.
_HELD_BELOW = min(process.CUTOVER.values())


class Kernel:
    """The compiled step of some memory, in the form that its size takes.

    `take` calls it. With an exchange the norms of all processes meet in between.
    """

    def __init__(self, memory: StepMemory, out: bool, exchange: StepExchange | None) -> None:
        plan, total = memory.plan, sum(memory.layout.sizes) * memory.plan.unit
        self._memory, self._exchange, self._none = memory, exchange, np.empty(0, plan.dtype)
        self.form = HELD if total < _HELD_BELOW else SERIAL
        if process.wants_parallel(total):
            self.form = PARALLEL
        #: ``step(at, p, g, lr) -> status``
        self.step = compiled_step(plan, out, self.form)
        if self.form == PARALLEL:
            in_threads = self.step
            self.step = lambda *given: _fork_safe(plan, out, in_threads)(*given)
        if exchange is not None:
            exchange.words = memory.totals.size

    def take(self, frame: np.ndarray, lr: float, before: Writes, after: Writes) -> int:
        """Take a step of arrays in a table: `before` and `after` it these writes, as one."""
        if self._exchange is not None:
            return self._exchanged(frame, lr, before, after)
        results = at_once([*before, self._call(frame, lr), *after])
        return int(results[len(before)])

    def _call(self, frame: np.ndarray, lr: float) -> Callable[[], int]:
        return partial(self.step, address_of(frame), self._none, self._none, lr)

    def _exchanged(self, frame: np.ndarray, lr: float, before: Writes, after: Writes) -> int:
        """As `take`, with norms of all processes; Ctrl-C waits, so that they stay in step."""
        exchange, memory = self._exchange, self._memory
        assert exchange is not None
        exchange.begin(lr)
        measure, follow = frame.copy(), frame.copy()
        measure[AT.stage], follow[AT.stage] = MEASURE, FOLLOW
        with defer_interrupts():
            at_once([*before, self._call(measure, lr)])
            same = same_numbers(int(memory.counters[0]), memory.control)
            rows = exchange.gather(memory.totals.reshape(-1).view(np.int64), same)
            totals = rows.copy().view(np.float64).reshape(exchange.size, *memory.totals.shape)
            memory.totals[...] = added(totals)
            results = at_once([*before, self._call(follow, lr), *after])
        exchange.done()
        return int(results[len(before)])


def _fork_safe(plan: Plan, out: bool, in_threads: Callable[..., int]) -> Callable[..., int]:
    """The parallel step, or the serial one where a fork has lost Numba's threads."""
    return compiled_step(plan, out, SERIAL) if process.serial_only else in_threads


#: Power of two that keeps a sum of squares of several processes finite.
_ROOM = 32.0


def added(totals: np.ndarray) -> np.ndarray:
    """Sums of squares and exponents of several processes, added in their order."""
    sums, exponents = totals[:, :, 0], totals[:, :, 1]
    most = exponents.max(axis=0)
    most += np.where(np.isfinite(sums).all(axis=0) & (sums.max(axis=0) > 1e300), _ROOM, 0.0)
    with np.errstate(all="ignore"):
        scaled = sums * 2.0 ** (2.0 * (exponents - most))
    return np.stack([functools.reduce(np.add, scaled), most], axis=1)


_SETTLE = f"""\
{DECORATOR}
def settle(numbers, least):
    for i in range(len(numbers)):
        x = numbers[i]
        numbers[i] = least - least if abs(x) < least else x


{DECORATOR}
def settle_inside(numbers, lows, highs, least):
    zero = least - least
    for i in range(len(numbers)):
        x = numbers[i]
        numbers[i] = zero if abs(x) < least and lows[i] <= zero and zero <= highs[i] else x"""

"""Kernels of a step on a GPU, as texts: the element's lines in the frame of a thread.

Kernels get numbers and addresses alone. A thread of a step has one element, of which it reads all
arrays before it uses any: 16 bytes of a thread are under way with Adam, 32 KB of a multiprocessor,
where 12 keep an H100's memory busy. (Public measurements of loads of 16 bytes in such kernels,
CCCL's on a B200 among them, find less than 10 %: they would need instructions of our own.)

* No fastmath: square roots and divisions are rounded correctly, NaN and denormals stay.
* ``a*b + c`` becomes one fused multiply-add. That is the compiler's default, numba-cuda has no
  option against it, and it only drops a rounding. So GPU and CPU agree to a bound and not bit for
  bit; on one GPU the bits do not depend on grid, stream or layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.scalars import ema_at
from numadam._core.text import Text, indented, scope_of

#: Threads of a block: enough for any GPU to hide its memory's latency at 40 registers a thread.
THREADS = 256


class Kernel(NamedTuple):
    """A kernel before it is compiled.

    ``scope(wrap)`` has the names that the text reads, where ``wrap(function)`` compiles a function
    for a GPU. `kinds` are the types of the arguments: a dtype, with a star for its address, two for
    the address of addresses, and with a number for so many, one by one.
    """

    name: str
    text: str
    kinds: tuple[str, ...]
    scope: Callable[[Any], dict[str, Any]]


# --- leaves --------------------------------------------------------------------------------------

#: Fields of a leaf in the table that kernels over many leaves read, in int64: its iterations, its
#: first block of the step, its row of scalars, the numbers and the first block of its norm. Then
#: come the addresses of its arrays, by slot.
FIELDS = ("iterations", "first_block", "group", "norm_numbers", "norm_first")
#: Words of a leaf there.
WORDS = len(FIELDS) + pl.SLOTS


class Frame:
    """Parts in which kernels over one leaf and those over `many` differ.

    Over one they get the address of each array, over many that of the table and the leaf of each
    block. The scalars are the last argument: one by one, `by_value`, or the address of their rows.
    `names` and `kinds` are those of the arguments; `lines` come first and leave `n`, `block`,
    counted from the leaf's first, and the arrays by their names in the text. `row` is where the
    leaf's scalars begin.
    """

    def __init__(self, text: Text, arrays: Sequence[str], of: str, many: bool, by_value: bool):
        plan, real = text.plan, text.plan.real.name
        views = [text.views[name] for name in arrays]
        if many:
            count, first = {"step": (0, 1), "norm": (3, 4)}[of]
            slots = dict(zip(text.arrays, text.slots, strict=True))
            places = [len(FIELDS) + slots[name] for name in arrays]
            self.names, self.kinds = (
                ["table", "arrays", "leaves"],
                ["int64*", f"{real}**", "int32*"],
            )
            self.lines = [
                "leaf = np.int64(leaves[cuda.blockIdx.x])",
                f"at = leaf * {WORDS}",
                f"n = table[at + {count}]",
                f"block = np.int64(cuda.blockIdx.x) - table[at + {first}]",
                *(f"{view} = arrays[at + {k}]" for view, k in zip(views, places, strict=True)),
            ]
        else:
            self.names, self.kinds = [*views, "n"], [f"{real}*"] * len(views) + ["int64"]
            self.lines = ["block = np.int64(cuda.blockIdx.x)"]
        self.row, width = "", len(text.scalars)
        if many and not by_value:
            self.row, self.lines = "r + ", [*self.lines, f"r = table[at + 2] * {width}"]
        self._last = "row", f"{real}[{width}]" if by_value else f"{real}*"
        self._leaf = "2 * leaf" if many and plan.norm == "array" else "0"

    def add(self, name: str, kind: str) -> None:
        """Add an argument."""
        self.names, self.kinds = [*self.names, name], [*self.kinds, kind]

    def clip(self, text: Text) -> list[str]:
        """The clip factor of a leaf, where its gradients are clipped by norm."""
        if not text.plan.clip_norm:
            return []
        self.add("factors", f"{text.plan.real.name}*")
        return [f"pre = factors[{self._leaf}]", f"factor = factors[{self._leaf} + 1]"]

    def kernel(self, name: str, body: list[str], scope: Any, has_row: bool = True) -> Kernel:
        """The kernel, its own lines behind those of the frame."""
        if has_row:
            self.add(*self._last)
        head = f"def {name}({', '.join(self.names)}):"
        lines = [head, *indented([*self.lines, *body])]
        return Kernel(name, "\n".join(lines) + "\n", tuple(self.kinds), scope)


def _own(i: str) -> list[str]:
    """Begin the lines for the iteration of a thread: neighbours take neighbours."""
    return [f"{i} = block * {THREADS} + cuda.threadIdx.x", f"if {i} < n:"]


# --- kernels -------------------------------------------------------------------------------------


def make_step(plan: Plan, by_value: bool, many: bool, has_out: bool) -> Kernel:
    """The step: ``step(arrays..., n, factors, row)``, or ``step(table, arrays, leaves, ...)``."""
    text = Text(plan, has_out)
    frame = Frame(text, text.arrays, "step", many, by_value)
    body = [*text.head(frame.row), *frame.clip(text), *_own("i"), *indented(text.element())]
    return frame.kernel("step", body, lambda wrap: scope_of(plan, wrap))


def make_lazy(plan: Plan, by_value: bool) -> Kernel:
    """The rows of a sparse gradient: ``lazy(arrays..., n, index, width, factors, row)``.

    `index` has their numbers, `width` the iterations of one row, `n` those of all. With ``count=
    "row"`` there are scalars for each of them at `row`.
    """
    text = Text(plan, of_gradient="e")
    frame = Frame(text, text.arrays, "step", False, by_value)
    frame.add("index", "int64*")
    frame.add("width", "int64")
    head, clip = (
        text.head(f"{len(text.scalars)} * which + " if plan.by_row else ""),
        frame.clip(text),
    )
    place = ["which = e // width", "i = index[which] * width + (e - which * width)"]
    body = [*_own("e"), *indented([*place, *head, *clip, *text.element()])]
    return frame.kernel("lazy", body, lambda wrap: scope_of(plan, wrap))


def make_rows(plan: Plan) -> Kernel:
    """Count rows, each by itself: ``rows(table, control, counts, index, n, lr)``.

    A thread for each of `n` rows of a sparse gradient, whose numbers are at `index`: its step is
    added to `counts`, and `table` gets a row with the scalars of the step of that number. `control`
    is the row of the control block.
    """
    text, carried = Text(plan), len(plan.products)
    width, real = len(text.scalars), plan.real.name
    body = [
        "t = np.float64(counts[index[e]] + 1)",
        "counts[index[e]] += 1",
        f"row = cuda.local.array({width}, {real})",
    ]
    if carried:
        # below 2**-128 a product is as good as 0, and is not formed on
        matters = " or ".join(f"products[{k}] > {2.0**-128!r}" for k in range(carried))
        body += [
            f"products = cuda.local.array({2 * carried}, float64)",
            *(f"products[{k}] = 1.0" for k in range(carried)),
            *text.hypers(),
            "last, t = t, 1.0",
            f"while t < last and ({matters}):",
            *indented(text.products()),
            *indented([f"products[{k}] = products[{carried + k}]" for k in range(carried)]),
            "    t += 1.0",
            "t = last",
        ]
    body += [*text.fill(), *(f"table[{width} * e + {k}] = row[{k}]" for k in range(width))]
    lines = ["def rows(table, control, counts, index, n, lr):"]
    lines += indented(["e = np.int64(cuda.grid(1))", "if e < n:", *indented(body)])
    kinds = (f"{real}*", "float64*", "int64*", "int64*", "int64", "float64")
    more = "\n".join(lines) + "\n", kinds
    return Kernel("rows", *more, lambda wrap: scope_of(plan, wrap) | {"ema_at": wrap(ema_at)})

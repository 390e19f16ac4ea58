"""Text of a step: the source of the loop over elements that the options of a plan need.

An option that is not in use has no line. The element's lines are the same wherever they stand: in
the loops of CPUs and GPUs, of sparse rows, and of runs. What differs is the frame around them.

The order of a step is the same for every rule: sign, mask at active bounds, norm and guard, clip by
value, clip by norm, L2 decay, the rule, step size per element, decoupled decay, bounds, average.
"""

from __future__ import annotations

import inspect
import keyword
import math
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.plan import Plan
from numadam._core.rule import RuleSpec, named
from numadam._core.scalars import ema_at, tiny
from numadam._core.synonyms import library
from numadam._jit.build import INNER

#: Names that a text uses: state arrays that are called so step aside.
_NAMES = """
p g gg h average rate low high out step element zero one inf row i n t lr c q k control products
clip pre factor decay lost per_element weight np math prange carray pointer Scalars Hypers Products
Carried scalars advance ema_at tiny table leaf start begin item fill part square after parts blocks
most least settle settle_inside total sums whole scale x j
cuda arrays leaves leaf at block r factors end e which width index
"""
_LOCALS = frozenset(_NAMES.split())


def parameters_of(rule: RuleSpec, element: Any) -> list[str]:
    """The parameters of a rule's element; refuses those that the loops cannot give it."""
    found = list(inspect.signature(element).parameters)
    plain, with_square = (["p", "g", *square, *rule.state, "h"] for square in ([], ["gg"]))
    if found not in (plain, with_square):
        raise TypeError(
            f"{rule.name}: expected element({', '.join(plain)}), or with gg, the square of g, "
            f"after g; got element({', '.join(found)})."
        )
    return found


def indented(lines: list[str], levels: int = 1) -> list[str]:
    """Lines of a block that is so many levels deeper."""
    return ["    " * levels + line for line in lines]


def _called(head: str, items: list[str]) -> list[str]:
    """A call with many arguments, over as many lines as it takes."""
    lines = textwrap.wrap(", ".join(items), 80)
    return [f"{head}({lines[0]})"] if len(lines) < 2 else [f"{head}(", *indented(lines), ")"]


#: Of functions of a text that its entry calls.
DECORATOR = f'@njit(error_model="numpy", {", ".join(f"{key}={on}" for key, on in INNER.items())})'


def function_text(head: str, body: list[str], decorator: str = DECORATOR) -> str:
    """A function of a module; the entry, which `compiled` decorates, has no decorator."""
    return "\n".join(filter(None, [decorator, f"def {head}:", *indented(body)]))


class Text:
    """The source of the loop of one plan; `of_gradient` is the variable that g is read at.

    Attributes
    ----------
    arrays : list of str
        The arrays in use, in the order of a table's columns: p, g, the state, average, rate, low,
        high, out.
    slots : list of int
        The slot of each of them.
    views : dict of str to str
        By array the variable that holds it: ``"p"`` is ``ps``. Two numbers an element where it is
        complex and taken whole.
    scalars : list of str
        The names in a row of scalars: those of the formula, then those of the loop.
    loop : list of str
        The latter: those that the options in use need.
    """

    def __init__(self, plan: Plan, out: bool = False, of_gradient: str = "i") -> None:
        self.plan, self.out, self._of_gradient = plan, out, of_gradient
        self.states = [name for name in plan.rule.state if name in plan.present]
        boxed, decay = plan.bounds, plan.decay
        used = {"average": plan.average and not out, "rate": plan.elementwise}
        used |= dict.fromkeys(("low", "high"), boxed == "array") | {"out": out}
        self.arrays = ["p", "g", *self.states, *(name for name in used if used[name])]
        slots = {"p": pl.P, "g": pl.G, "average": pl.AVERAGE, "rate": pl.RATE}
        slots |= {"low": pl.LOW, "high": pl.HIGH, "out": pl.OUT, **plan.state_slots}
        self.slots = [slots[name] for name in self.arrays]
        self._numbers = {name: self._free_name(name) for name in self.states}
        self.views = {name: self._view(name) for name in self.arrays}
        wanted = {"clip": plan.clip_value, "pre": plan.clip_norm, "factor": plan.clip_norm}
        wanted |= {"decay": decay == "l2", "lost": decay == "decoupled"}
        wanted |= {"per_element": decay == "decoupled" and plan.elementwise}
        wanted |= dict.fromkeys(("low", "high"), boxed == "scalar")
        wanted |= {"weight": plan.average and not out}
        self.loop = [name for name, is_used in wanted.items() if is_used]
        self.scalars = [*plan.rule.scalar_type._fields, *self.loop]

    # --- names -----------------------------------------------------------------------------------

    def _free_name(self, state: str) -> str:
        """A variable for a number of a state array of any name."""
        others = {f"{name}s" for name in (*self.states, "p", "g")}
        taken = state in _LOCALS or state in others or keyword.iskeyword(state)
        return f"{state}_" if taken else state

    def _view(self, name: str) -> str:
        own = self._numbers.get(name, name)
        return f"{own}_all" if keyword.iskeyword(f"{own}s") or own.endswith("_") else f"{own}s"

    def _whole(self, name: str) -> bool:
        """Whether an array has one real number for a complex one that is taken whole."""
        return self.plan.whole(self.slots[self.arrays.index(name)])

    def _number(self, name: str, part: str) -> str:
        """The variable for element i of an array, or for a part of it."""
        own = self._numbers.get(name, name)
        return f"{own}_{part}" if part and not self._whole(name) else own

    def _place(self, name: str, part: str) -> str:
        """Element i of an array, or a part of it."""
        i = self._of_gradient if name == "g" else "i"
        if part and not self._whole(name):
            i = {"re": f"2 * {i}", "im": f"2 * {i} + 1"}[part]
        return f"{self.views[name]}[{i}]"

    def _end(self, name: str, part: str) -> str:
        """A bound: an array's number, or a scalar."""
        return self._number(name, part) if self.plan.bounds == "array" else name

    # --- the element -----------------------------------------------------------------------------

    def element(self) -> list[str]:
        """Element i of a step: all loads, the arithmetic, all stores.

        A loop vectorises only if every load comes before the first condition.
        """
        parts = ["re", "im"] if self.plan.modulus else [""]
        names = [name for name in self.arrays if name != "out"]
        lines = [
            f"{self._number(name, part)} = {self._place(name, part)}"
            for part in parts
            for name in self._of_part(names, part)
        ]
        for part in parts:
            lines += self._gradient(part)
        if self.plan.modulus:
            lines += ["gg = g_re * g_re + g_im * g_im"]
        for part in parts:
            lines += self._update(part)
        kept = [*self.states, *(name for name in ("average",) if name in self.arrays)]
        kept = [*kept, "out"] if self.out else ["p", *kept]
        return lines + [
            f"{self._place(name, part)} = {self._number(name, part)}"
            for part in parts
            for name in self._of_part(kept, part)
        ]

    def _of_part(self, names: list[str], part: str) -> list[str]:
        """The arrays that a part reads or writes: a whole number goes with the real part."""
        return [name for name in names if not (part == "im" and self._whole(name))]

    def _masked(self, part: str, clip: str = "") -> list[str]:
        """Sign, active bounds, and clip by value of the gradient; NaN stays.

        At an active bound the component that points outward is 0; otherwise the moments wind up and
        keep p on the bound. The two are one pair of limits: a condition on g itself takes longer.
        """
        plan, g, p = self.plan, self._number("g", part), self._number("p", part)
        lines, most, least = [f"{g} = -{g}"] if plan.maximize else [], clip, f"-{clip}"
        if plan.bounds:
            low, high, free = self._end("low", part), self._end("high", part), clip or "inf"
            lines += [f"most = zero if {p} <= {low} else {free}"]
            lines += [f"least = zero if {p} >= {high} else -{free}"]
            most, least = "most", "least"
        if plan.bounds or clip:
            lines += [f"{g} = {most} if {g} > {most} else {g}"]
            lines += [f"{g} = {least} if {g} < {least} else {g}"]
        return lines

    def _gradient(self, part: str) -> list[str]:
        """The gradient as the rule gets it."""
        plan, g = self.plan, self._number("g", part)
        lines = self._masked(part, "clip" if plan.clip_value else "")
        if plan.clip_norm:
            lines += [f"{g} = {g} * pre * factor"]
        if plan.decay == "l2":
            lines += [f"{g} = {g} + decay * {self._number('p', part)}"]
        return lines

    def _call(self, part: str) -> str:
        """The call of the rule's formula. Of a complex number both parts get its modulus `gg`."""
        rule, g = self.plan.rule, self._number("g", part)
        given = {"p": self._number("p", part), "g": g, "gg": "gg" if part else f"{g} * {g}"}
        given |= {"h": "h"} | dict.fromkeys(rule.state, "None")
        given |= {name: self._number(name, part) for name in self.states}
        # both parts compute the same second moment: that of the imaginary part is kept, since the
        # real part must not write what the other reads
        lost = [part == "re" and self._whole(name) for name in self.states]
        results = dict.fromkeys(rule.state, "_")
        results |= {
            name: "_" if is_lost else given[name]
            for name, is_lost in zip(self.states, lost, strict=True)
        }
        names = ", ".join(given[name] for name in parameters_of(rule, self.plan.element()))
        step = f"step_{part}" if part else "step"
        return f"{', '.join([step, *results.values()])} = element({names})"

    def _update(self, part: str) -> list[str]:
        """The rule's step and what follows it."""
        plan, p, lines = self.plan, self._number("p", part), [self._call(part)]
        step = f"step_{part}" if part else "step"
        # decay and step are added before they are taken from p: one rounding. Shrinking p first had
        # 40 times the error after 2000 steps in float32
        if plan.elementwise:
            rate = self._number("rate", part)
            more = f" + (lost + {rate} * per_element) * {p}" if plan.decay == "decoupled" else ""
            lines += [f"{step} = {step} * {rate}{more}"]
        elif plan.decay == "decoupled":
            lines += [f"{step} = {step} + lost * {p}"]
        if self.out and not plan.bounds:
            return [*lines, f"{self._number('out', part)} = -{step}"]
        new = self._number("out", part) if self.out else p
        lines += [f"{new} = {p} - {step}"]
        if plan.bounds:
            low, high = self._end("low", part), self._end("high", part)
            lines += [f"{new} = {low} if {new} < {low} else {new}"]
            lines += [f"{new} = {high} if {new} > {high} else {new}"]
        if self.out:
            lines += [f"{new} = {new} - {p}"]
        if "average" in self.arrays:  # a weight of 1 is no memory, also of an infinite average
            mean = self._number("average", part)
            lines += [f"{mean} = {p} if weight == one else {mean} + weight * ({p} - {mean})"]
        return lines

    # --- the norm --------------------------------------------------------------------------------

    @property
    def norm_arrays(self) -> list[str]:
        """The arrays that the norm of the gradients reads."""
        if not self.plan.bounds:
            return ["g"]
        return ["p", "g", *(["low", "high"] if self.plan.bounds == "array" else [])]

    def norm_element(self) -> list[str]:
        """``g``, the real number i of the gradient whose norm is taken: complex numbers have two.

        `views` name the arrays.
        """
        loads = [f"{name} = {self.views[name]}[i]" for name in self.norm_arrays]
        return loads + self._masked("")

    # --- scalars of a step -----------------------------------------------------------------------

    def head(self, begin: str = "") -> list[str]:
        """Scalars from their row: in registers, so that no store can change them.

        `begin` says where the row begins in an array of many: ``"r + "``.
        """
        size = len(self.scalars) - len(self.loop)
        lines = _called("h = Scalars", [f"row[{begin}{k}]" for k in range(size)])
        if self.plan.bounds:
            lines += ["zero = h.zero"]
        return lines + [f"{name} = row[{begin}{k}]" for k, name in enumerate(self.loop, size)]

    def fill(self) -> list[str]:
        """Body of ``fill(row, control, products, t, lr)``: the scalars of a group at step t.

        They are computed in float64 and rounded once. `control` is the row of the control block of
        the group; `products` those carried, before step t and then after it.
        """
        column = op.COLUMN
        lines = [f"lr = lr if np.isnan(control[{column.lr}]) else control[{column.lr}]"]
        lines += [*self.hypers(), *self.products()]
        lines += ["h = scalars(c, q, lr, t)"]
        size = len(self.scalars) - len(self.loop)
        lines += [f"row[{k}] = h.{name}" for k, name in enumerate(self.scalars[: size - 2])]
        lines += [f"row[{size - 2}] = tiny * control[{column.flush}]", f"row[{size - 1}] = 0.0"]
        decay, free = (f"control[{k}]" for k in (column.weight_decay, column.decay_free))
        lost = f"{decay} if {free} != 0.0 else lr * {decay}"
        if self.plan.elementwise:
            lost = f"{decay} * {free}"
        ema = f"control[{column.ema}], control[{column.ema_warmup}], control[{column.ema_debias}]"
        late = "True" if library(self.plan.like or None).late_average else "False"
        values = {
            "clip": f"control[{column.clip_value}]",
            "pre": "1.0",
            "factor": "1.0",
            "decay": decay,
            "lost": lost,
            "per_element": f"lr * {decay} * (1.0 - {free})",
            "low": f"control[{column.low}]",
            "high": f"control[{column.high}]",
            "weight": f"1.0 - ema_at({ema}, t, {late})",
        }
        return lines + [
            f"row[{k}] = {values[name]}  # {name}" for k, name in enumerate(self.loop, size)
        ]

    def hypers(self) -> list[str]:
        """``c``: the rule's hyperparameters."""
        items = [f"control[{op.RULE + k}]" for k in range(self.plan.rule.width)]
        return _called("c = Hypers", items) if items else ["c = None"]

    def products(self) -> list[str]:
        """``q``: the products over the steps 1 to t, of which those carried are noted."""
        plan, own = self.plan, self.plan.own_products
        kind, carried = plan.rule.product_type, len(plan.products)
        if kind is None:
            return ["q = None"]
        lines, items = [], {}
        if own:
            before = ", ".join(f"products[{k}]" for k in range(len(own)))
            lines += [f"after = advance(c, Carried({before}), t)"]
            lines += [f"products[{carried + k}] = after.{name}" for k, name in enumerate(own)]
        for k, name in enumerate(kind._fields):
            power = name.removesuffix("_product")
            if k >= len(own) and k < carried:
                lines += [f"products[{carried + k}] = products[{k}] * c.{power}"]
            items[name] = f"products[{carried + k}]" if k < carried else f"c.{power} ** t"
        return [*lines, f"q = Products({', '.join(items.values())})"]


def scope_of(plan: Plan, wrap: Callable[[Any], Any] = lambda function: function) -> dict[str, Any]:
    """The names that a text reads, besides those of its frame.

    ``wrap(function)`` is applied to the functions of the rule, which are to be compiled.
    """
    rule, scope = plan.rule, {"np": np, "math": math, "ema_at": ema_at}
    fields = plan.own_products
    scope |= {"Scalars": rule.scalar_type, "Hypers": rule.hyper_type, "Products": rule.product_type}
    scope |= {"element": wrap(plan.element()), "scalars": wrap(plan.scalars)}
    scope |= {"tiny": tiny(plan.real), "one": plan.real.type(1)}
    scope |= {"inf": plan.real.type(np.inf)}
    if fields:
        scope |= {"Carried": named("Products", fields), "advance": wrap(plan.advance)}
    return scope


def source_of(plan: Plan) -> str:
    """The loop of a step and the scalars before it, as they are compiled; for people to read."""
    text = Text(plan)
    views = ", ".join(text.views[name] for name in text.arrays)
    loop = [*text.head(), "for i in range(n):", *indented(text.element())]
    functions = {
        f"part({views}, n, row)": loop,
        "fill(row, control, products, t, lr)": text.fill(),
    }
    blocks = ["\n".join([f"def {head}:", *indented(body)]) for head, body in functions.items()]
    formula = plan.element()
    try:
        written = textwrap.dedent(inspect.getsource(formula)).rstrip()
    except OSError:  # typed in, or run from a text
        written = f"# {formula.__name__} has no source file"
    return "\n\n\n".join([*blocks, written]) + "\n"

"""Options of one optimiser as its back end needs them: groups, plan, control block, arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import array_namespace

from numadam._arrays.checks import refuse_more_than_numbers
from numadam._arrays.interop import FEW, assign
from numadam._arrays.tree import Tree
from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.hyper import LR, Hyper, at_start, check_switch
from numadam._core.plan import Plan, plan_of
from numadam._core.rule import RuleSpec
from numadam._core.scalars import products_after
from numadam._core.synonyms import library
from numadam._jit.process import Writes, at_once
from numadam._settings.bounds import OPEN, Pair, as_numbers, fits, inward

if TYPE_CHECKING:
    from numadam._mpi import StepExchange

# --- learning rates ------------------------------------------------------------------------------


def is_plain(lr: Any) -> bool:
    """Whether a step size is one number, or a callable, for all arrays."""
    if type(lr) is float:  # 0.5 us less
        return True
    return not isinstance(lr, (list, tuple, Mapping)) and getattr(lr, "ndim", 0) == 0


def check_rate(lr: Any, leaf: Any, name: str) -> Any:
    """A step size per element: finite, not negative, and of a shape that fits."""
    xp = array_namespace(leaf)
    refuse_more_than_numbers(lr, "lr", "expected a number or an array")
    try:
        values = as_numbers(xp, lr, "lr")
    except (TypeError, ValueError) as error:
        raise TypeError(f"lr: expected a number or an array for {name}, got {lr!r:.80}.") from error
    if not fits(values, leaf):
        raise ValueError(
            f"lr: expected a number or an array that broadcasts to shape {leaf.shape} of {name}, "
            f"got shape {values.shape}."
        )
    if not bool(xp.all((values >= 0.0) & xp.isfinite(values))):
        raise ValueError(f"lr: expected finite numbers >= 0 for {name}.")
    return values


# --- groups --------------------------------------------------------------------------------------


Overrides = dict[str, Any]


def dotted(path: Sequence[Any]) -> str:
    """The path of an array in its nesting, e.g. ``"layers.0.bias"``."""
    return ".".join(map(str, path))


def _matches(path: Sequence[Any], pattern: str) -> bool:
    """Whether a pattern fits the array, or a container that it lies in."""
    lengths = range(1, len(path) + 1) or [0]  # 0: the only array has no path
    return any(fnmatchcase(dotted(path[:length]), pattern) for length in lengths)


def leaf_overrides(groups: Any, paths: Sequence[Sequence[Any]], rule: RuleSpec) -> list[Overrides]:
    """Options that the groups set for each array; of two that fit, the later one wins."""
    found: list[Overrides] = [{} for _ in paths]
    if groups is None:
        return found
    if not isinstance(groups, Mapping):
        raise TypeError(
            "groups: expected a mapping of patterns to options, such as "
            f"{{'*.bias': {{'weight_decay': 0.0}}}}, got {type(groups).__name__}."
        )
    allowed = ("frozen", *op.OF_GROUPS, *(hyper.name for hyper in rule.hypers))
    for pattern, options in groups.items():
        if not isinstance(pattern, str) or not isinstance(options, Mapping):
            raise TypeError(
                f"groups: expected a pattern and its options, got {pattern!r}: {options!r}."
            )
        for name in options:
            if name not in allowed:
                raise ValueError(
                    f"groups[{pattern!r}]: cannot set {name!r}; a group may set "
                    f"{', '.join(allowed)}."
                )
        check_switch(f"groups[{pattern!r}]['frozen']", options.get("frozen", False))
        hits = [k for k, path in enumerate(paths) if _matches(path, pattern)]
        if not hits:
            known = ", ".join(repr(dotted(path)) for path in paths[:6])
            known += ", ..." if len(paths) > 6 else ""
            short = pattern.removeprefix("*.")
            use = f" Write {short!r}." if any(_matches(path, short) for path in paths) else ""
            raise ValueError(f"groups[{pattern!r}]: fits no array; their paths are {known}.{use}")
        for k in hits:
            found[k].update(options)
    return found


def group_overrides(
    rule: RuleSpec, options: Mapping[str, Any], lr: Any, tree: Tree
) -> list[Overrides]:
    """Options that differ from array to array, checked: groups, and a step size for each."""
    if options["groups"] is None and is_plain(lr):
        return [{} for _ in range(tree.size)]
    overrides = leaf_overrides(options["groups"], tree.paths(), rule)
    rates = [] if is_plain(lr) else tree.flatten(lr, "lr")
    for k, own in enumerate(overrides):
        if rates:
            own.setdefault("lr", rates[k])
        if is_plain(own.get("lr", ())):
            own["lr"] = LR.check_or_schedule(own["lr"])
        values = {key: own[key] for key in own if key not in ("frozen", "lr")}
        if not values:
            continue
        checked = op.change(rule, options, values)
        own.update({key: checked[key] for key in values})
        if rule.present(checked) != rule.present(options):
            raise ValueError(f"groups: {values!r} needs other state arrays than {rule.name} has.")
        if rule.initial(checked) != rule.initial(options):
            raise ValueError(
                f"groups: {values!r} sets the start of the state, which is one for all arrays; "
                "assign opt.state of these arrays instead."
            )
    return overrides


# --- refusals ------------------------------------------------------------------------------------


def check_plan(plan: Plan, options: Mapping[str, Any]) -> None:
    """Refuse options that do not fit the dtype of the parameters, or each other."""
    problem = ""
    if plan.modulus and plan.rule.modulus(options) is None:
        problem = (
            f"complex_form: {plan.rule.name} with these options uses the gradient otherwise than "
            "by its square, so complex numbers cannot be taken whole; use 'parts'."
        )
    elif options["sparse"] == "lazy" and plan.bounds and plan.norm:
        problem = (
            "bounds: with sparse='lazy' the norm would need them row by row; use sparse='dense', "
            "or leave out clip_norm, clip_array_norm and nonfinite."
        )
    elif plan.by_row and plan.numbers == 2:
        problem = "count: 'row' is not for complex parameters, all of whose rows are stepped."
    if problem:
        raise ValueError(problem)


# --- numbers that processes share ----------------------------------------------------------------


#: Columns that each process has for itself, behind t.
_OF_BLOCKS = [1 + op.COLUMN.low, 1 + op.COLUMN.high]


def same_numbers(t: int, control: np.ndarray) -> np.ndarray:
    """The numbers, in float64: steps taken, and what no group changes in the control block."""
    numbers = np.array([t, *control[0]], np.float64)
    numbers[_OF_BLOCKS] = 0.0
    return numbers


def names_of_same(rule: RuleSpec) -> list[str]:
    """Names of these numbers, as the user calls them."""
    return ["t", *op.ControlRow._fields, *rule.hyper_type._fields]


# --- settings ------------------------------------------------------------------------------------


#: A group, the column and hyperparameter that change in it, and the callable that says how.
Scheduled = tuple[int, int, Hyper, Callable[[int], float]]

_GUARDS = {"propagate": pl.PROPAGATE, "raise": pl.RAISE, "skip": pl.SKIP}


def are_numbers(pairs: Sequence[Pair]) -> bool:
    """Whether all bounds are numbers, and none is an array."""
    return all(isinstance(end, float) for pair in pairs for end in pair)


class Settings:
    """Options of one optimiser, applied to its arrays.

    Attributes
    ----------
    options : dict
        Every option, checked; hyperparameters may be callables.
    plan : Plan
    control : numpy.ndarray of float64
        The control block: a row for each group; group 0 has the options that no group changes.
    group_of_leaf : list of int
        The group of each array.
    per_element : dict of int to list
        Bounds and step sizes that differ from element to element, by slot.
    schedules : list of (group, column, hyperparameter, callable)
        All values that change from step to step, besides the learning rate.
    guard : int
        Policy for gradients that are not finite, see `plan.SKIP`.
    exchange : StepExchange or None
        With the other processes that own parts of the same arrays, where a norm needs them.
    together : callable or None
        Called once, when all has been checked: raises where it failed in another process.
    lr : float, callable, array or nesting
        As the user sees it; set by `set_lr`.
    constant_rate : float or None
        The learning rate of every step; None where a schedule has to be called.
    """

    def __init__(
        self,
        rule: RuleSpec,
        options: dict[str, Any],
        leaves: Sequence[Any],
        names: Sequence[str],
        overrides: Sequence[Overrides],
        pairs: Sequence[Pair],
    ) -> None:
        self.rule: RuleSpec = rule
        self.options: dict[str, Any] = options
        self._names = list(names)
        self.exchange: StepExchange | None = None
        self.together: Callable[[str], None] | None = None
        self.lr: Any = None  # until `set_lr`
        self.constant_rate: float | None = None
        self.guard: int = _GUARDS[options["nonfinite"]]
        self._overrides: list[Overrides] = [{}]
        self.group_of_leaf: list[int] = []
        boxes: list[Pair] = [OPEN]
        self.per_element: dict[int, list[Any]] = {}
        scalar_box = are_numbers(pairs)
        for own, pair in zip(overrides, pairs, strict=True):
            own = {key: value for key, value in own.items() if key != "frozen"}
            if "lr" in own and not is_plain(own["lr"]):
                own["lr"] = 1.0
            box = pair if scalar_box else OPEN
            self.group_of_leaf.append(self._group_for(own, box, boxes))
        dtype = np.dtype(leaves[0].dtype.type) if leaves else np.dtype(float)
        self.plan: Plan = self._plan(dtype, pairs, scalar_box, overrides)
        check_plan(self.plan, options)
        ends = np.array(OPEN, self.plan.real)
        open_box = ends[0], ends[1]  # rounding them would take a tenth of all this
        self._boxes: list[Pair] = [
            open_box if pair == OPEN else self._rounded(pair) for pair in boxes
        ]
        self.schedules: list[Scheduled] = self._find_schedules(options)
        rows = [
            op.row(rule, {**options, **own}, own.get("lr", math.nan), *box)
            for own, box in zip(self._overrides, self._boxes, strict=True)
        ]
        self.control: np.ndarray[Any, Any] = np.array(rows)
        self._guard_squares()
        self._fill_per_element(leaves, overrides, pairs)

    def _guard_squares(self) -> None:
        """Set the norm above which a guard stops a step: its square would be infinite.

        Where `clip_value` bounds every element, the norm says nothing about the squares.
        """
        if self.guard and self.rule.squares:
            limit = math.sqrt(np.finfo(self.plan.real).max)
            clipped = self.control[:, op.COLUMN.clip_value].max() <= limit
            self.control[:, op.COLUMN.largest_norm] = math.inf if clipped else limit

    def copy(self) -> Settings:
        """Settings with a control block of their own; all else is never modified in place."""
        clone = object.__new__(Settings)
        # not `vars(clone).update`: each step of it would be 0.03 us slower
        for name, value in vars(self).items():
            setattr(clone, name, value)
        clone.control = self.control.copy()
        return clone

    def _group_for(self, own: Overrides, box: Pair, boxes: list[Pair]) -> int:
        """The group with these overrides and bounds; a new one where there is none."""
        for group, known in enumerate(zip(self._overrides, boxes, strict=True)):
            if known == (own, box):
                return group
        self._overrides.append(own)
        boxes.append(box)
        return len(boxes) - 1

    def _plan(
        self,
        dtype: np.dtype[Any],
        pairs: Sequence[Pair],
        scalar_box: bool,
        overrides: Sequence[Overrides],
    ) -> Plan:
        options, rule, like = self.options, self.rule, self.options["like"]
        every = [{**options, **own} for own in self._overrides]
        boxed = not scalar_box or any(pair != OPEN for pair in pairs)
        decays, average = any(of["weight_decay"] != 0.0 for of in every), options["ema"] is not None
        by_array = options["clip_array_norm"] is not None
        of_all = self.guard != 0 or options["clip_norm"] is not None
        # the preset stays where it computes scalars in a way of its own
        differs = rule.differs_like(like) or (library(like).late_average and average)
        return plan_of(
            rule,
            tuple(sorted(rule.variant(options).items())),
            rule.present(options) + ((pl.ROW_COUNTS,) if options["count"] == "row" else ()),
            max((rule.products(of) for of in every), key=len),  # all groups, where one needs any
            dtype,
            decay=("decoupled" if options["decoupled"] else "l2") if decays else "",
            bounds=("scalar" if scalar_box else "array") if boxed else "",
            elementwise=any("lr" in own and not is_plain(own["lr"]) for own in overrides),
            average=average,
            norm="array" if by_array else "all" if of_all else "",
            like=like if differs else "",
            squares=rule.modulus(options) or (),
            modulus=dtype.kind == "c" and options["complex_form"] == "modulus",
            maximize=options["maximize"],
            clip_value=any(of["clip_value"] is not None for of in every),
            clip_norm=by_array or options["clip_norm"] is not None,
        )

    def _rounded(self, pair: Pair) -> Pair:
        """Bounds in the dtype of the parameters, rounded inwards where a number lies between."""
        real = self.plan.real
        low, high = inward(pair[0], real, math.inf), inward(pair[1], real, -math.inf)
        xp = np if isinstance(low, (np.ndarray, np.generic)) else array_namespace(low)
        crossed = low > high  # no number of the dtype lies between: the nearest one is both
        if bool(xp.any(low == math.inf)) or bool(xp.any(high == -math.inf)):
            raise ValueError(f"bounds: no finite {real} lies between {pair[0]} and {pair[1]}.")
        with np.errstate(all="ignore"):
            near_low = xp.asarray(pair[0], dtype=xp.float64).astype(real)
            near_high = xp.asarray(pair[1], dtype=xp.float64).astype(real)
        return xp.where(crossed, near_low, low), xp.where(crossed, near_high, high)

    def _fill_per_element(
        self, leaves: Sequence[Any], overrides: Sequence[Overrides], pairs: Sequence[Pair]
    ) -> None:
        if self.plan.bounds == "array":
            rounded = [self._rounded(pair) for pair in pairs]
            self.per_element[pl.LOW] = [low for low, _ in rounded]
            self.per_element[pl.HIGH] = [high for _, high in rounded]
        if self.plan.elementwise:
            self.per_element[pl.RATE] = [
                1.0 if is_plain(own.get("lr", 1.0)) else check_rate(own["lr"], leaf, name)
                for own, leaf, name in zip(overrides, leaves, self._names, strict=True)
            ]

    def leaf_boxes(self) -> list[Pair] | None:
        """The bounds of each array, rounded into its dtype; None without bounds."""
        if self.plan.bounds == "scalar":
            return [self._boxes[group] for group in self.group_of_leaf]
        if self.plan.bounds == "array":
            return list(zip(self.per_element[pl.LOW], self.per_element[pl.HIGH], strict=True))
        return None

    def _find_schedules(self, options: Mapping[str, Any]) -> list[Scheduled]:
        found = []
        columns = op.columns(self.rule).items()
        for group, overrides in enumerate(self._overrides):
            values = {**options, "lr": None, **overrides}
            for name, (hyper, column) in columns:
                if callable(values[name]):
                    multiplied = column >= op.RULE and (
                        name in self.rule.powers or self.plan.own_products
                    )
                    if self.plan.by_row and multiplied:
                        raise ValueError(
                            f"{name}: with count='row' every row would need a product over its own "
                            "steps where this changes from step to step; use a number."
                        )
                    found.append((group, column, hyper, values[name]))
        return found

    def agree(self, home: str) -> None:
        """Go on, where all processes of the same arrays do; called before the first write.

        `home` is the library of the arrays here.
        """
        together, self.together = self.together, None
        if together is not None:
            together(home)

    def set_lr(self, lr: Any) -> None:
        """Take another learning rate, which has been checked."""
        new = {"lr": lr, "constant_rate": self._constant(lr, self.schedules)}
        at_once([self._setter(name, value) for name, value in new.items()])

    def _setter(self, name: str, value: Any) -> Callable[[], None]:
        """Assignment to an attribute, for `at_once`."""
        return partial(object.__setattr__, self, name, value)

    @staticmethod
    def _constant(lr: Any, schedules: Sequence[Scheduled]) -> float | None:
        """The learning rate of every step; None where a schedule has to be called.

        0 where the step reads that of each array.
        """
        rate = lr if is_plain(lr) else 0.0
        return None if schedules or callable(rate) else rate

    def rate(self, t: int, lr: Any = None) -> float:
        """The learning rate of the step after t, `lr` where there is one; `refresh` included."""
        self.refresh(t)
        if lr is None:
            rate: float = LR.check(self.lr(t)) if callable(self.lr) else self.lr
            return rate if is_plain(rate) else 0.0
        if not is_plain(self.lr):
            raise ValueError("lr: this optimiser has a step size for each array; leave it out.")
        return LR.check(lr)

    def refresh(self, t: int) -> None:
        """Write the values of all schedules for the step after t into the control block."""
        if not self.schedules:
            return
        # a schedule that several groups share is called once
        unlike = {id(schedule): schedule for *_, schedule in self.schedules}
        now = {key: schedule(t) for key, schedule in unlike.items()}
        checked = [hyper.check(now[id(schedule)]) for _, _, hyper, schedule in self.schedules]
        for (group, column, _, _), value in zip(self.schedules, checked, strict=True):
            self.control[group, column] = value

    def products_after(self, steps: int) -> dict[str, np.ndarray]:
        """Running products after so many steps with these options, by name, one for each group."""
        if not self.plan.products:
            return {}
        rows = products_after(
            self.plan, steps, self.control, self.refresh if self.schedules else None
        )
        return {name: rows[:, k].copy() for k, name in enumerate(self.plan.products)}

    def reads(self, name: str) -> bool:
        """Whether the loop reads an option as a number: another number is another value alone."""
        if name == "lr":
            return is_plain(self.lr)
        in_use = self.options.get(name) is not None and name in op.columns(self.rule)
        return in_use and (name != "weight_decay" or self.plan.decay != "")

    def set(self, name: str, value: Any) -> bool:
        """Change a number of all arrays whose group sets none of its own.

        False, and nothing is changed, where it takes another loop, or is no such number.
        """
        if name == "lr" and is_plain(value) and is_plain(self.lr):
            self.set_lr(LR.check_or_schedule(value))
            return True
        if name not in self.options or name not in op.columns(self.rule):
            return False
        hyper, column = op.columns(self.rule)[name]
        options = op.change(self.rule, self.options, {name: value})
        if name == "ema" and options["ema_debias"] and options["ema"] != self.options["ema"]:
            raise ValueError("ema: ema_debias divides by 1 - ema^t, so ema cannot change.")
        if self._structure(options) != self._structure(self.options):
            return False
        now, changed = options[name], self.copy()
        start = op.NEUTRAL[name] if now is None else at_start(hyper, now)
        rows = [group for group, own in enumerate(self._overrides) if name not in own]
        changed.options, changed.schedules = options, self._find_schedules(options)
        changed.constant_rate = self._constant(self.lr, changed.schedules)
        changed.control[rows, column] = start
        changed._guard_squares()  # noqa: SLF001  # of this class
        at_once(self.writes_from(changed))
        return True

    def has_state_of(self, other: Settings) -> bool:
        """Whether other settings need the same state arrays and products."""
        groups = len(self.control) == len(other.control) or not self.plan.products
        return groups and self.plan.state == other.plan.state

    def writes_from(self, other: Settings) -> Writes:
        """Writes that take over hyperparameters, schedules and lr of a `copy` that was changed."""
        names = ("options", "schedules", "lr", "constant_rate")
        writes = [self._setter(name, getattr(other, name)) for name in names]
        return [*writes, partial(assign, self.control, ..., other.control)]

    def _structure(self, options: Mapping[str, Any]) -> tuple[Any, ...]:
        """All that options decide about the compiled loop and the state arrays."""
        rule = self.rule
        asked = tuple(options[name] is None for name in op.NEUTRAL)
        decays = self.plan.decay != "" or options["weight_decay"] != 0.0
        return rule.present(options), rule.products(options), rule.variant(options), asked, decays


# --- settings for each set of options ------------------------------------------------------------


def settings_for(
    rule: RuleSpec,
    options: dict[str, Any],
    frozen: Hashable | None,
    leaves: Sequence[Any],
    names: Sequence[str],
    overrides: Sequence[Overrides],
    pairs: Sequence[Pair],
) -> Settings:
    """As `Settings`. Those of options that make a key are computed once: that takes 80 us.

    `frozen` is that key, None where there is none; see `numadam._core.options`.
    """
    if frozen is not None and 0 < len(leaves) <= FEW and not any(overrides):
        pair, count = pairs[0], len(leaves)
        if are_numbers(pairs) and pairs.count(pair) == count:
            return _alike(rule, frozen, leaves[0].dtype.type, count, pair).copy()
    return Settings(rule, options, leaves, names, overrides, pairs)


@functools.lru_cache(maxsize=256)
def _alike(rule: RuleSpec, frozen: Any, kind: type[Any], count: int, pair: Pair) -> Settings:
    """Settings of arrays that have no options of their own."""
    leaves = [np.empty(0, kind)] * count
    options = op.check_frozen(rule, "", *frozen)
    return Settings(rule, options, leaves, [""] * count, [{}] * count, [pair] * count)

"""The options of one optimiser, brought down to what its back end needs: rows, plan, arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from numadam._core import options as op
from numadam._core import plan as pl
from numadam._core.half import as_storage
from numadam._core.hyper import Hyper, at_start
from numadam._core.plan import Plan
from numadam._core.rule import RuleSpec
from numadam._settings.bounds import OPEN, Pair, inward
from numadam._settings.groups import Overrides
from numadam._settings.learning_rate import check_rate, is_plain

#: A group, the column and hyperparameter that change in it, and the callable that says how.
Scheduled = tuple[int, int, Hyper, Callable[[int], float]]

_GUARDS = {"propagate": 0, "raise": 1, "skip": 2}


class Settings:
    """All that the options say about the arrays of one optimiser.

    Attributes
    ----------
    options : dict
        Every option as the user gave it: hyperparameters may be callables.
    plan : Plan
    control : numpy.ndarray of float64
        A row for each group of arrays; row 0 holds the options that no group changes.
    rows : list of int
        Each array's row.
    per_element : dict of int to list
        Bounds and step sizes that differ from element to element, by slot.
    schedules : list
        (row, column, hyperparameter, callable) of all that change from step to step.
    guard : int
        What to do about gradients that are not finite.
    rate_array : array or None
        Where lr lies on the GPU, with capturable=True.
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
        self.rule, self.options, self._names = rule, options, list(names)
        self.rate_array: Any = None
        self.guard = _GUARDS[options["nonfinite"]]
        self._overrides: list[Overrides] = [{}]
        self.group_of_leaf: list[int] = []
        boxes: list[Pair] = [OPEN]
        self.per_element: dict[int, list[Any]] = {}
        scalar_box = all(isinstance(end, float) for pair in pairs for end in pair)
        for own, pair in zip(overrides, pairs, strict=True):
            own = {key: value for key, value in own.items() if key != "frozen"}
            if "lr" in own and not is_plain(own["lr"]):
                own["lr"] = 1.0
            box = pair if scalar_box else OPEN
            self.group_of_leaf.append(self._row_for(own, box, boxes))
        dtype = np.dtype(leaves[0].dtype.type) if leaves else np.dtype(float)
        self.plan = self._plan(dtype, pairs, scalar_box, overrides)
        _check_plan(self.plan, options)
        self._round_boxes(boxes)
        self.schedules = self._find_schedules()
        self.control = np.array(
            [
                self._control_row(own, box)
                for own, box in zip(self._overrides, self._boxes, strict=True)
            ]
        )
        self._fill_per_element(leaves, overrides, pairs)

    def _row_for(self, own: Overrides, box: Pair, boxes: list[Pair]) -> int:
        for row, (known, known_box) in enumerate(zip(self._overrides, boxes, strict=True)):
            if known == own and known_box == box:
                return row
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
        options, rule = self.options, self.rule
        decays = [own.get("weight_decay", options["weight_decay"]) for own in self._overrides]
        kind = "decoupled" if options["decoupled"] else "l2"
        boxed = any(pair != OPEN for pair in pairs) if scalar_box else True
        real = np.dtype(np.float64 if dtype.name in ("float64", "complex128") else np.float32)
        asked = options["state_dtype"]
        return Plan(
            rule,
            tuple(sorted(rule.variant(options).items())),
            rule.present(options),
            self._products(),
            dtype,
            real if asked is None else as_storage(asked, "state_dtype"),
            decay=kind if any(decay != 0.0 for decay in decays) else "",
            bounds=("scalar" if scalar_box else "array") if boxed else "",
            elementwise=any("lr" in own and not is_plain(own["lr"]) for own in overrides),
            accumulate=options["accumulate"] > 1,
            average=options["ema"] is not None,
            master=options["master"],
            norm=self._norm(),
            like=options["like"] if options["like"] in rule.scalars_like else "",
            squares=rule.modulus(options) or (),
            modulus=dtype.kind == "c" and options["complex_form"] == "modulus",
        )

    def _products(self) -> tuple[str, ...]:
        """The running products: those of all groups where one of them needs any."""
        needed = (self.rule.products({**self.options, **own}) for own in self._overrides)
        return max(needed, key=len)

    def _norm(self) -> str:
        """Which norms a step has to form."""
        if self.options["clip_array_norm"] is not None:
            return "array"
        return "all" if self.guard != 0 or self.options["clip_norm"] is not None else ""

    def _round_boxes(self, boxes: Sequence[Pair]) -> None:
        self._boxes: list[Pair] = [self._rounded(pair) for pair in boxes]

    def _rounded(self, pair: Pair) -> Pair:
        """Bounds in the dtype of the parameters, inside of what was asked for where possible."""
        storage, real = self.plan.storage(pl.P), self.plan.real
        low = inward(pair[0], storage, math.inf, real)
        high = inward(pair[1], storage, -math.inf, real)
        xp = np if isinstance(low, (np.ndarray, np.generic)) else array_namespace(low)
        crossed = low > high  # no number of the dtype lies between: the nearest one is both
        if bool(xp.any(low == math.inf)) or bool(xp.any(high == -math.inf)):
            raise ValueError(f"bounds: no finite {storage} lies between {pair[0]} and {pair[1]}.")
        with np.errstate(over="ignore"):
            near_low = xp.asarray(pair[0], dtype=xp.float64).astype(storage).astype(real)
            near_high = xp.asarray(pair[1], dtype=xp.float64).astype(storage).astype(real)
        return xp.where(crossed, near_low, low), xp.where(crossed, near_high, high)

    def _control_row(self, own: Overrides, box: Pair) -> list[float]:
        values = op.row(self.rule, {**self.options, **own}, own.get("lr", math.nan))
        values[op.LOW], values[op.HIGH] = float(box[0]), float(box[1])
        return values

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

    def box(self, row: int) -> Pair:
        """The bounds of the arrays of one row."""
        return self._boxes[row]

    def _find_schedules(self) -> list[Scheduled]:
        found = []
        names = [*op.COLUMNS, *(hyper.name for hyper in self.rule.hypers)]
        for row, own in enumerate(self._overrides):
            values = {**self.options, "lr": None, **own}
            for name in names:
                if callable(values[name]):
                    hyper, column = op.column(self.rule, name)
                    found.append((row, column, hyper, values[name]))
        return found

    @property
    def has_schedules(self) -> bool:
        """Whether a hyperparameter besides the learning rate changes from step to step."""
        return bool(self.schedules)

    def refresh(self, t: int) -> None:
        """Put the values of all schedules for the step after t into the control block."""
        if self.schedules:
            # one that several groups share is asked once
            unlike = {id(schedule): schedule for *_, schedule in self.schedules}
            now = {key: schedule(t) for key, schedule in unlike.items()}
            found = [
                (row, column, hyper.check(now[id(schedule)]))
                for row, column, hyper, schedule in self.schedules
            ]
            for row, column, value in found:
                self.control[row, column] = value

    def set(self, name: str, value: Any) -> None:
        """Change a hyperparameter of all arrays whose group sets none of its own."""
        hyper, column = op.column(self.rule, name)
        options = op.check(self.rule, "", {}, {**self.options, name: value})
        if name == "ema" and options["ema_debias"] and options["ema"] != self.options["ema"]:
            raise ValueError("ema: ema_debias divides by 1 - ema^t, so ema cannot change.")
        if self._structure(options) != self._structure(self.options):
            raise ValueError(
                f"{name}: {value!r} instead of {self.options[name]!r} needs another step: make a "
                "new optimiser."
            )
        self.options = options
        self.schedules = self._find_schedules()
        for row, own in enumerate(self._overrides):
            if name not in own:
                now = options[name]
                self.control[row, column] = (
                    op.NEUTRAL[name] if now is None else at_start(hyper, now)
                )

    def _structure(self, options: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a step is compiled for and what state it has, as far as options decide it."""
        rule = self.rule
        asked = tuple(options[name] is None for name in (*_NORMS, "ema"))
        decays = self.plan.decay != "" or options["weight_decay"] != 0.0
        return rule.present(options), rule.products(options), rule.variant(options), asked, decays


def _check_plan(plan: Plan, options: Mapping[str, Any]) -> None:
    """Refuse options that do not fit the dtype of the parameters, or each other."""
    problem = ""
    if plan.state_dtype.itemsize > plan.real.itemsize:
        problem = (
            f"state_dtype: {plan.state_dtype} holds more digits than the arithmetic, which is "
            f"{plan.real} for {plan.dtype} parameters; leave it out."
        )
    elif plan.numbers == 2 and plan.state_dtype.itemsize == 2:
        problem = (
            f"state_dtype: there are no complex numbers of {plan.state_dtype} parts for the state "
            f"of {plan.dtype} parameters; leave it out."
        )
    elif plan.state_dtype.name == "float16":
        problem = (
            "state_dtype: squares of gradients below 2e-4 are 0 in float16, and steps then too "
            "long without end; use 'bfloat16'."
        )
    elif plan.master and plan.dtype.itemsize != 2:
        problem = (
            f"master: is for float16 and bfloat16 parameters, these are {plan.dtype}; leave it out."
        )
    elif plan.modulus and plan.rule.modulus(options) is None:
        problem = (
            f"complex_form: {plan.rule.name} with these options uses the gradient otherwise than "
            "by its square, so complex numbers cannot be taken whole; use 'parts'."
        )
    elif options["sparse"] == "lazy" and plan.bounds and plan.norm:
        problem = (
            "bounds: with sparse='lazy' the norm would need them row by row; use sparse='dense', "
            "or leave out clip_norm, clip_array_norm and nonfinite."
        )
    if problem:
        raise ValueError(problem)


_NORMS = ("clip_norm", "clip_array_norm")

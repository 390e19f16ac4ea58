"""What a rule is: a formula on scalars, the names of its state, the scalars of one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: State arrays a formula may hold: the loops carry this many, absent ones as ``None``.
STATE_SLOTS = 3

#: Scalars that every formula gets after its own: ``tiny`` and ``zero`` (see `RuleSpec.scalars`).
Scalars = tuple[float, ...]


@dataclass(frozen=True)
class Hyper:
    """A float hyperparameter: its range is ``[low, high)``, or ``[low, high]`` if `closed`."""

    name: str
    low: float = 0.0
    high: float = math.inf
    closed: bool = False

    def check(self, value: object) -> float:
        """Return `value` as a float, or say what is wrong with it."""
        kind = type(value).__name__
        try:
            if isinstance(value, (str, bytes, bool)):
                raise TypeError(f"{kind} is not taken for a number")
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError) as error:
            raise TypeError(f"{self.name}: expected a number, got {kind} ({value!r}).") from error
        below = number <= self.high if self.closed else number < self.high
        if not (self.low <= number and below):
            end = "]" if self.closed else ")"
            raise ValueError(
                f"{self.name}: expected a number in [{self.low:g}, {self.high:g}{end}, "
                f"got {value!r}."
            )
        return number


@dataclass(frozen=True, eq=False)
class RuleSpec:
    """One update rule. Adding a rule is one file that makes one of these.

    Attributes
    ----------
    name : str
        Lower-case name, e.g. ``"adam"``.
    state : tuple of str
        Names of the state arrays in the order in which `formula` takes them, at most three.
    hypers : tuple of Hyper
        Float hyperparameters; the control block holds their values in this order.
    formula : callable
        ``formula(**variant) -> element``, and
        ``element(p, g, s0, s1, s2, h) -> (step, s0, s1, s2)`` works on scalars of the array's
        dtype: the loop then writes ``p - step``. An absent state array arrives as ``None`` and
        goes back as ``None``. It is compiled for CPU and CUDA, so it holds no Python object and
        no integer literal that meets a float.
    scalars : callable
        ``scalars(c, lr, t) -> tuple of float``: from the control block, in float64, what the
        elements need at step t (1 at the first). The loop casts them once to the dtype and
        appends ``tiny`` (smallest normal number of the dtype) and ``zero``: together they are
        the `h` of `element`.
    present : callable
        ``present(options) -> tuple of str``: which of `state` these options need.
    variant : tuple of str
        Options that change the compiled formula (keywords of `formula`).
    switches : tuple of str
        Options that are True or False.
    control : callable
        ``control(options) -> tuple of float``: further entries of the control block, after the
        hyperparameters: switches that are host scalars and so cost no second kernel.
    refuse : callable
        ``refuse(options) -> str``: what is wrong with these options together, or "".
    """

    name: str
    state: tuple[str, ...]
    hypers: tuple[Hyper, ...]
    formula: Callable[..., Callable[..., Any]]
    scalars: Callable[[Any, float, float], Scalars]
    present: Callable[[Mapping[str, Any]], tuple[str, ...]]
    variant: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    control: Callable[[Mapping[str, Any]], tuple[float, ...]] = field(default=lambda options: ())
    refuse: Callable[[Mapping[str, Any]], str] = field(default=lambda options: "")

    def control_values(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        """The control block for these options."""
        return tuple(options[hyper.name] for hyper in self.hypers) + self.control(options)

    def index(self, name: str) -> int:
        """Place of a hyperparameter in the control block."""
        return [hyper.name for hyper in self.hypers].index(name)

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with all of them checked, one by one and together."""
        checked = dict(options)
        for hyper in self.hypers:
            checked[hyper.name] = hyper.check(options[hyper.name])
        for name in self.switches:
            if not isinstance(options[name], bool):
                raise TypeError(f"{name}: expected True or False, got {options[name]!r}.")
        problem = self.refuse(checked)
        if problem:
            raise ValueError(problem)
        return checked

    def slots(self, options: Mapping[str, Any]) -> tuple[bool, ...]:
        """Which of the loop's state slots are in use."""
        names = self.present(options)
        used = [name in names for name in self.state]
        return tuple(used + [False] * (STATE_SLOTS - len(used)))

    def element(self, options: Mapping[str, Any]) -> Callable[..., Any]:
        """The formula for these options, as a plain function of scalars."""
        return self.formula(**{key: options[key] for key in self.variant})


LR = Hyper("lr")
EPS = Hyper("eps")

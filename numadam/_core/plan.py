"""Plan: all that decides the machine code of a loop, and nothing else."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from numadam._core.rule import RuleSpec
from numadam._jit.process import cached_property

#: State arrays a formula may hold: the loops carry this many, absent ones as ``None``.
STATE_SLOTS = 3

# Slots: the arrays that one leaf has in a step. Up to OUT they may be the caller's and are
# validated at every step; the rest belong to the back end: the average, bounds and step size per
# element.
P, G, S0, S1, S2, OUT = range(6)
CHECKED = 6
AVERAGE, LOW, HIGH, RATE = range(CHECKED, 10)
SLOTS = 10

#: Policies of a guard, for a step whose gradients are not finite.
PROPAGATE, RAISE, SKIP = range(3)

#: Name in `state`, and among those in use, of the steps of each row, with ``count="row"``.
ROW_COUNTS = "row_counts"


def real_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of the arithmetic: float64 for float64 and complex128, else float32."""
    return np.dtype(np.float64 if dtype.name in ("float64", "complex128") else np.float32)


def is_written(slot: int, slots: Container[int]) -> bool:
    """Whether a step over the arrays of `slots` writes those of one: p only without `out`."""
    return slot != G and not (slot == P and OUT in slots)


@dataclass(frozen=True)
class Plan:
    """The loop over parameters of one dtype: its arrays, and what it does with them.

    Attributes
    ----------
    rule : RuleSpec
    variant : tuple of (str, bool)
        Keywords of the rule's formula.
    present : tuple of str
        State arrays in use.
    products : tuple of str
        Products over the steps that are carried from step to step.
    dtype : numpy.dtype
        Of the parameters.
    decay : {"", "l2", "decoupled"}
    bounds : {"", "scalar", "array"}
    elementwise : bool
        Whether every element has a step size of its own.
    average : bool
        Whether there is an average of the parameters.
    norm : {"", "all", "array"}
        Norm of the gradients that is computed first, for a clip or the guard: of all of them
        together, or of each array.
    maximize, clip_value, clip_norm : bool
        Whether the gradient changes its sign, is clipped by value, by that norm.
    like : str
        The preset, where it computes the scalars in a way of its own.
    squares : tuple of str
        State arrays that then are real.
    modulus : bool
        Whether complex numbers are taken whole, with a real second moment.
    """

    rule: RuleSpec
    variant: tuple[tuple[str, bool], ...]
    present: tuple[str, ...]
    products: tuple[str, ...]
    dtype: np.dtype[Any]
    decay: str = ""
    bounds: str = ""
    elementwise: bool = False
    average: bool = False
    norm: str = ""
    modulus: bool = False
    squares: tuple[str, ...] = ()
    like: str = ""
    maximize: bool = False
    clip_value: bool = False
    clip_norm: bool = False

    def __post_init__(self) -> None:
        # a dictionary's key at every step of the functional API: hashing all fields takes 2 us
        fields = tuple(vars(self).values())
        object.__setattr__(self, "_hash", hash(fields))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined,no-any-return]  # set when made

    @cached_property
    def name(self) -> str:
        """Name of the loop, different for different loops."""
        words = [self.rule.key, self.dtype.name, "+".join(self.present)]
        words += [key for key, on in self.variant if on]
        words += [self.like, "running" if self.products else ""]
        words += [self.decay, f"{self.bounds}-bounds" if self.bounds else ""]
        words += [f"norm-of-{self.norm}" if self.norm else ""]
        switches = "elementwise", "average", "modulus", "maximize", "clip_value", "clip_norm"
        words += [key for key in switches if getattr(self, key)]
        return "-".join(filter(None, words))

    @property
    def words(self) -> str:
        """The loop in words: the rule, the dtype, and the options that differ from none in use."""
        in_use = {
            "weight_decay": self.decay,
            "bounds": self.bounds,
            "clip_value": self.clip_value,
            "clip_norm": self.clip_norm,
            "nonfinite": self.norm and not self.clip_norm,
            "ema": self.average,
            "lr by element": self.elementwise,
            "maximize": self.maximize,
            "counts by row": self.by_row,
            'complex_form="modulus"': self.modulus,
            f'like="{self.like}"': self.like,
        }
        forms = [key for key, on in self.variant if on and not self.like]
        forms += [name for name in self.present if name in self.rule.lasting]
        options = ", ".join([*forms, *(name for name, is_used in in_use.items() if is_used)])
        return f"{self.rule.key} for {self.dtype.name}" + (f", with {options}" if options else "")

    @cached_property
    def real(self) -> np.dtype[Any]:
        """The dtype of the arithmetic."""
        return real_of(self.dtype)

    @cached_property
    def numbers(self) -> int:
        """Real numbers in one element of the parameters."""
        return 2 if self.dtype.kind == "c" else 1

    @property
    def by_row(self) -> bool:
        """Whether the scalars of a row are those of its own number of steps."""
        return ROW_COUNTS in self.present

    @property
    def unit(self) -> int:
        """Iterations of the loop for one element of the parameters."""
        return 1 if self.modulus else self.numbers

    def whole(self, slot: int) -> bool:
        """Whether a slot has one real number for a whole complex one: a squared modulus."""
        if slot == RATE:
            return self.modulus
        if not self.modulus or slot not in (S0, S1, S2):
            return False
        k = slot - S0
        return k < len(self.rule.state) and self.rule.state[k] in self.squares

    def array_dtype(self, slot: int) -> np.dtype[Any]:
        """The dtype of a slot's arrays as the user sees them."""
        if self.numbers == 1 or self.whole(slot):
            return self.real  # a step size per element of parts is r + r*1j: one for each part
        return self.dtype

    def stride(self, slot: int) -> int:
        """Bytes from one iteration of the loop to the next."""
        pair = self.modulus and not self.whole(slot)
        return self.real.itemsize * (2 if pair else 1)

    def has(self, slot: int) -> bool:
        """Whether every step has an array in a slot."""
        if slot in (S0, S1, S2):
            k = slot - S0
            return k < len(self.rule.state) and self.rule.state[k] in self.present
        boxed = self.bounds == "array"
        own = {AVERAGE: self.average, LOW: boxed, HIGH: boxed, RATE: self.elementwise}
        return {P: True, G: True, OUT: False, **own}[slot]

    @cached_property
    def state_slots(self) -> dict[str, int]:
        """State arrays by name, in the order in which they are saved, and their slots."""
        named = {name: S0 + k for k, name in enumerate(self.rule.state) if name in self.present}
        return named | ({"average": AVERAGE} if self.average else {})

    @property
    def state(self) -> tuple[Any, ...]:
        """Marks of one form of state: arrays, their dtypes, products."""
        arrays = [(name, self.array_dtype(slot)) for name, slot in self.state_slots.items()]
        return arrays, self.products, self.by_row, self.dtype

    @property
    def state_nbytes(self) -> int:
        """Bytes of the state of one element of the parameters."""
        return sum(self.array_dtype(slot).itemsize for slot in self.state_slots.values())

    @property
    def scalars(self) -> Any:
        """The rule's scalars of one step, to be compiled."""
        return self.rule.compiled_scalars(self.like, self.real == np.float32)

    @cached_property
    def advance(self) -> Any:
        """The rule's function for its own products after a step, where it has any."""
        return self.rule.compiled_advance(self.like)

    @property
    def own_products(self) -> tuple[str, ...]:
        """Products that `advance` forms."""
        return self.rule.own_products(self.like)

    def element(self) -> Any:
        """The rule's formula, as a plain function of scalars."""
        return self.rule.formula(**dict(self.variant))


#: As `Plan`: equal arguments give one object, so that what follows from it is found by identity.
plan_of = lru_cache(maxsize=1024)(Plan)

"""Options that all rules share: names, ranges, defaults, the control block, and keys."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Container, Hashable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from numadam._core.hyper import (
    LR,
    Bounds,
    ComplexForm,
    Count,
    Hyper,
    Like,
    Nonfinite,
    Schedule,
    Sparse,
    at_start,
    check_choice,
    check_kind,
    check_switch,
    count,
)
from numadam._core.rule import RuleSpec
from numadam._core.synonyms import library, option_hint

# --- options that all rules share ----------------------------------------------------------------
# The control block has a row for each group of arrays: the values of the shared options in float64
# (`ControlRow`), then those of the rule (`RuleSpec.hyper_type`). Every step reads it, so a value
# may change at any time.


class ControlRow(NamedTuple):
    """The columns of a row that all rules share, hyperparameters first; the rule's own follow."""

    lr: float  # NaN: that of the step
    weight_decay: float
    clip_value: float
    clip_norm: float
    clip_array_norm: float
    ema: float
    low: float  # scalar bounds
    high: float
    sign: float  # -1 with maximize
    decay_free: float  # decoupled decay without lr
    margin: float  # added to a norm before it divides
    largest_norm: float  # norm after clips above which a guard stops the step
    ema_warmup: float
    ema_debias: float
    flush: float  # whether denormal moments become 0


#: The place of each column, by name.
COLUMN: Any = ControlRow(*range(len(ControlRow._fields)))
#: The first column of the rule.
RULE = len(COLUMN)

#: The hyperparameters of every rule.
HYPERS = (
    LR,
    Hyper("weight_decay"),
    Hyper("clip_value", closed=True, positive=True),
    Hyper("clip_norm", closed=True, positive=True),
    Hyper("clip_array_norm", closed=True, positive=True),
    Hyper("ema", 0.0, 1.0),
)
HYPER_NAMES = [hyper.name for hyper in HYPERS]
#: Options that an entry of `groups` may set, besides the rule's hyperparameters and ``frozen``.
OF_GROUPS = ("lr", "weight_decay", "clip_value")


class SharedOptions(NamedTuple):
    """Options of every rule: name, type, default.

    None means that the option is not in use; `decoupled` then is the rule's own way. Signatures,
    attributes and their texts follow (``python -m tests.generate``).
    """

    weight_decay: float | Schedule = 0.0
    decoupled: bool | None = None
    decay_times_lr: bool = True
    maximize: bool = False
    clip_value: float | Schedule | None = None
    clip_norm: float | Schedule | None = None
    clip_array_norm: float | Schedule | None = None
    nonfinite: Nonfinite = "propagate"
    max_skips: int | None = None
    bounds: Bounds | None = None
    ema: float | Schedule | None = None
    ema_warmup: bool = False
    ema_debias: bool = False
    groups: Mapping[str, Mapping[str, Any]] | None = None
    sparse: Sparse | None = None
    count: Count = "step"  # type: ignore[assignment]  # tuples have a method of this name
    complex_form: ComplexForm = "parts"
    like: Like | None = None
    comm: Any = None


DEFAULTS: dict[str, Any] = SharedOptions._field_defaults
#: Options that every update function takes, which keeps no array and no counter.
OF_UPDATES = (
    *("weight_decay", "decoupled", "decay_times_lr", "maximize"),
    *("clip_value", "clip_norm", "bounds", "complex_form", "like"),
)
#: Options besides hyperparameters that may be set at any time; the others decide the state.
SETTABLE = (
    *("maximize", "nonfinite", "max_skips", "bounds"),
    *("decoupled", "decay_times_lr", "groups"),
)
_SWITCHES = ("decoupled", *(name for name, value in DEFAULTS.items() if isinstance(value, bool)))
#: Each with the values that it may have besides its texts.
_CHOICES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "nonfinite": (Nonfinite, ()),
    "sparse": (Sparse, (None,)),
    "count": (Count, ()),
    "complex_form": (ComplexForm, ()),
}
#: The value of a column where its option is None.
NEUTRAL = {
    **dict.fromkeys(("clip_value", "clip_norm", "clip_array_norm"), math.inf),
    "ema": 0.0,
}


def check(
    rule: RuleSpec, title: str, shared: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """All options of a rule, its `own` and the `shared` ones, which have defaults; checked."""
    for name in shared:
        if name not in DEFAULTS:
            hint = option_hint(name, {"lr", *DEFAULTS, *own})
            raise TypeError(
                f"{title}: there is no option {name!r}. "
                f"{hint or 'See numadam.Optimizer for all of them.'}"
            )
    options = {**DEFAULTS, **shared, **own}
    if options["decoupled"] is None:
        options["decoupled"] = rule.decoupled
    _check_hypers(HYPERS[1:], options, options)
    _check_switches(_SWITCHES, options)
    for name, (texts, also) in _CHOICES.items():
        check_choice(name, options[name], texts, also)
    if options["max_skips"] is not None:
        options["max_skips"] = count("max_skips", options["max_skips"], 1, 2**31 - 1)
    _check_rule(rule, options, options)
    return options


def change(
    rule: RuleSpec, options: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Checked `options` with some hyperparameters changed: these are checked, and all together."""
    changed = {**options, **changes}
    _check_hypers(HYPERS[1:], changed, changes)
    _check_rule(rule, changed, changes)
    return changed


def parted(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that all rules share, and those of one rule."""
    shared = {name: value for name, value in options.items() if name in DEFAULTS}
    return shared, {name: value for name, value in options.items() if name not in DEFAULTS}


def _check_hypers(hypers: Sequence[Hyper], options: dict[str, Any], names: Container[str]) -> None:
    for hyper in hypers:
        unused = options[hyper.name] is None and hyper.name in NEUTRAL
        if hyper.name in names and not unused:
            options[hyper.name] = hyper.check_or_schedule(options[hyper.name])


def _check_switches(names: Sequence[str], options: Mapping[str, Any]) -> None:
    for name in names:
        check_switch(name, options[name])


def _check_rule(rule: RuleSpec, options: dict[str, Any], names: Container[str]) -> None:
    """Check options that depend on each other, and those of the rule that are in `names`."""
    _check_together(options)
    _check_hypers(rule.hypers, options, names)
    for name, kind in rule.all_kinds.items():
        check_kind(name, options[name], kind)
    problem = rule.refuse(options)
    if problem:
        raise ValueError(problem)


def _check_together(options: Mapping[str, Any]) -> None:
    """Refuse options that need another one, or that say two things at once."""
    skips, average = options["nonfinite"] == "skip", options["ema"] is not None
    problem = ""
    if options["max_skips"] is not None and not skips:
        problem = "max_skips: needs nonfinite='skip'."
    elif options["clip_norm"] is not None and options["clip_array_norm"] is not None:
        problem = "clip_array_norm: clips each array by itself, clip_norm all together: use one."
    elif not options["decay_times_lr"] and not options["decoupled"]:
        problem = "decay_times_lr: L2 decay is part of the gradient; use decoupled=True with it."
    elif options["ema_warmup"] and not average:
        problem = "ema_warmup: needs an average, e.g. ema=0.999."
    elif options["ema_debias"] and not average:
        problem = "ema_debias: needs an average, e.g. ema=0.999."
    elif options["ema_debias"] and options["ema_warmup"]:
        problem = "ema_debias: ema_warmup already keeps the start from weighing too much: use one."
    elif options["ema_debias"] and callable(options["ema"]):
        problem = "ema_debias: divides by 1 - ema^t, so ema cannot be a schedule."
    elif options["sparse"] == "lazy" and average:
        problem = "ema: sparse='lazy' leaves rows alone that an average has to follow; use 'dense'."
    elif options["count"] == "row" and options["sparse"] != "lazy":
        problem = "count: 'row' counts the steps of rows that step alone; needs sparse='lazy'."
    elif options["count"] == "row" and options["comm"] is not None:
        problem = "count: 'row' is not for the blocks of several ranks (comm); use 'step'."
    if problem:
        raise ValueError(problem)


def named_options(function: Any, defaults: Mapping[str, Any]) -> inspect.Signature:
    """The signature of a function with options by name before ``**options``: IPython reads it."""
    signature = inspect.signature(function)
    given = list(signature.parameters.values())
    if not given or given[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return signature
    rest = given.pop()
    named = [
        inspect.Parameter(name, rest.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
        if name not in signature.parameters
    ]
    return signature.replace(parameters=[*given, *named, rest])


def row(
    rule: RuleSpec, options: Mapping[str, Any], lr: Any, low: Any = -math.inf, high: Any = math.inf
) -> list[float]:
    """A row of the control block, with schedules at their first value."""
    hypers, like = {"lr": at_start(LR, lr)}, library(options["like"])
    for hyper in HYPERS[1:]:
        value = options[hyper.name]
        hypers[hyper.name] = NEUTRAL[hyper.name] if value is None else at_start(hyper, value)
    shared = ControlRow(
        **hypers,
        low=float(low),
        high=float(high),
        sign=-1.0 if options["maximize"] else 1.0,
        decay_free=0.0 if options["decay_times_lr"] else 1.0,
        margin=like.margin,
        largest_norm=math.inf,
        ema_warmup=float(options["ema_warmup"]),
        ema_debias=float(options["ema_debias"]),
        flush=0.0 if like.bit_exact else 1.0,
    )
    return [*shared, *rule.control_values(options)]


@lru_cache
def columns(rule: RuleSpec) -> dict[str, tuple[Hyper, int]]:
    """The hyperparameters, shared and the rule's own, by name, each with its column."""
    places = *enumerate(HYPERS), *enumerate(rule.hypers, RULE)
    return {hyper.name: (hyper, column) for column, hyper in places}


# --- options as keys -----------------------------------------------------------------------------

#: Types of options that are compared by their value.
_PLAIN = frozenset((bool, int, float, np.float64, str, type(None)))
#: Entries from which a tuple, of pairs of bounds say, is no key: to compare it takes longer.
_LONG = 64


def freeze(options: Mapping[str, Any]) -> Hashable | None:
    """Options as a key: equal where names, types and values are; None where one is no plain value.

    Plain are numbers, texts, None and tuples of them. Arrays and functions may change behind
    their identity, and -0.0 is another number than 0.0 but equal to it.
    """
    values = tuple(options.values())
    kinds = _kinds(values)
    return None if kinds is None else (tuple(options), kinds, values)


def _kinds(values: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The types of plain values: 1, 1.0 and True are equal."""
    kinds: list[Any] = []
    for value in values:
        kind: Any = type(value)
        if kind is tuple:
            kind = _kinds(value) if len(value) <= _LONG else None
            if kind is None:
                return None
        elif not (kind in _PLAIN or issubclass(kind, np.number)) or (
            value == 0.0 and str(value) == "-0.0"
        ):
            return None
        kinds.append(kind)
    return tuple(kinds)


def own_copy(option: Any) -> Any:
    """The same containers and numbers with copies of the arrays."""
    if isinstance(option, MappingProxyType):  # as attributes give them
        option = option.copy()
    if isinstance(option, dict):
        clone = copy.copy(option)  # of its class
        clone.update({key: own_copy(value) for key, value in option.items()})
        return clone
    if type(option) in (list, tuple):
        kinds = {*map(type, option)}
        if kinds in ({list}, {tuple}):
            inner = {*map(type, itertools.chain.from_iterable(option))}
            # pairs of bounds: one by one they take ten times as long
            if all(kind in _PLAIN or issubclass(kind, np.number) for kind in inner):
                (pair_type,) = kinds
                return type(option)(map(pair_type, option))
        # of a list, which knows its length: of a map short ones take four times the memory
        return type(option)([own_copy(one) for one in option])
    if hasattr(option, "__next__"):
        return list(option)
    if hasattr(option, "lb"):  # scipy.optimize.Bounds
        return copy.deepcopy(option)
    is_array = isinstance(getattr(option, "size", None), int) and hasattr(option, "copy")
    return option.copy() if is_array else option


def read_only(value: Any) -> Any:
    """A copy of an option that cannot be written to: no step would see the change."""
    if isinstance(value, dict):
        clone = copy.copy(value)  # of its class
        clone.update({key: read_only(entry) for key, entry in value.items()})
        return MappingProxyType(clone)
    if type(value) in (list, tuple):
        return tuple([read_only(entry) for entry in value])
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def read(
    rule: RuleSpec, title: str, shared: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """As `check`, and the options as a key for `check_frozen`, None where they are none.

    Arrays among them are copied, since the caller may change them later.
    """
    frozen = freeze(shared), freeze(own)
    if None in frozen:
        return check(rule, title, own_copy(dict(shared)), own_copy(dict(own))), None
    return check_frozen(rule, title, *frozen), frozen


@lru_cache(maxsize=256)
def check_frozen(rule: RuleSpec, title: str, *frozen: Any) -> dict[str, Any]:
    """As `check`, for options that `freeze` has made a key of; not to be modified."""
    shared, own = (dict(zip(names, values, strict=True)) for names, _, values in frozen)
    return check(rule, title, shared, own)

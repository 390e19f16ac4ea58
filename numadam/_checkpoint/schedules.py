"""Schedules of `numadam.schedules` by name and numbers, each object once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from numadam import schedules
from numadam.schedules.plateau import ReduceOnPlateau

#: The schedules that a file may name.
KINDS = {name: getattr(schedules, name) for name in schedules.__all__}


def is_known(value: object) -> bool:
    """Whether an object is one of our schedules; one of a subclass may compute anything."""
    return KINDS.get(type(value).__name__) is type(value)


def fields_of(schedule: Any) -> dict[str, Any]:
    """Arguments and state of a schedule, by name."""
    return {field.name: getattr(schedule, field.name) for field in dataclasses.fields(schedule)}


def arguments_of(schedule: Any) -> dict[str, Any]:
    """Arguments of a schedule without its state, by name."""
    return {
        field.name: getattr(schedule, field.name)
        for field in dataclasses.fields(schedule)
        if field.init
    }


def plateaus_in(value: Any) -> Iterator[ReduceOnPlateau]:
    """The schedules with a state in an option, in the order of its nesting."""
    if isinstance(value, ReduceOnPlateau):
        yield value
    elif is_known(value):
        yield from plateaus_in(list(arguments_of(value).values()))
    elif isinstance(value, Mapping):
        yield from plateaus_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from plateaus_in(one)


def from_fields(name: str, saved: dict[str, Any]) -> Any:
    """The schedule with these arguments and this state; both are checked.

    An argument that the file is too old to have gets its default.

    Raises
    ------
    TypeError, ValueError, LookupError
        Where there is no such schedule, or a field is missing, unknown or out of range.
    """
    if name not in KINDS:
        raise ValueError(f"there is no schedule {name!r} in numadam.schedules.")
    fields = dataclasses.fields(KINDS[name])
    state = [field.name for field in fields if not field.init]
    made = KINDS[name](**{key: value for key, value in saved.items() if key not in state})
    if isinstance(made, ReduceOnPlateau):
        made.set_state(**{key: saved[key] for key in state})
    return made

"""Public names, and gaps in their docstrings: for the build of the docs and for the tests."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numadam
from numadam import nopython, schedules
from numadam._core.options import DEFAULTS

HOMES = {
    "numadam": numadam,
    "numadam.schedules": schedules,
    "numadam.nopython": nopython,
    "numadam.mpi": numadam.mpi,
}
#: A line of a numpydoc section "Parameters": names, then a type.
_PARAMETER = re.compile(r"^(\S.*?)(?: : .*)?$", re.MULTILINE)


def public_names() -> dict[str, Any]:
    """Every public class and function by its full name."""
    return {
        f"{home}.{name}": getattr(module, name)
        for home, module in HOMES.items()
        for name in getattr(module, "__all__", vars(module))
        if not name.startswith("_") and callable(getattr(module, name))
    }


def is_of_ranks(thing: Any) -> bool:
    """Whether its example is a program for several ranks, which no doctest could try."""
    return thing.__module__.startswith(("numadam.mpi", "numadam._mpi"))


def is_made_by_users(thing: Any) -> bool:
    """Whether users call it: errors they catch, and results they get."""
    return not (isinstance(thing, type) and issubclass(thing, (BaseException, dict)))


def lacks_example(thing: Any) -> bool:
    """Whether the docstring shows nothing that a doctest could try, or several ranks."""
    shown = "comm = MPI.COMM_WORLD\n" if is_of_ranks(thing) else ">>> "
    return shown not in (inspect.getdoc(thing) or "")


def missing_parameters(thing: Any) -> Iterator[str]:
    """Parameters of the signature that the docstring does not name."""
    if not is_made_by_users(thing):
        return
    text = inspect.getdoc(thing) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S+\n-{3,}$|\Z)", text, re.M | re.S)
    lines = _PARAMETER.findall(section.group(1)) if section else []
    named = {name.strip("* ") for line in lines for name in line.split(",")}
    for name, parameter in inspect.signature(thing).parameters.items():
        # shared options are there by name, for completion; ``**shared`` tells them
        told = name in named or name in DEFAULTS
        if not told and parameter.kind is not parameter.VAR_POSITIONAL:
            yield name

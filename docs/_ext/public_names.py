"""All public names. The build warns, and so fails, where one has no entry or no tried example."""

from __future__ import annotations

import inspect
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.util import logging

import numadam
from numadam import nopython, schedules

logger = logging.getLogger(__name__)


def public_names() -> dict[str, Any]:
    """Every public class and function by its full name."""
    homes = {"numadam": numadam, "numadam.nopython": nopython, "numadam.schedules": schedules}
    found = {}
    for home, module in homes.items():
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if not name.startswith("_") and not inspect.ismodule(thing) and callable(thing):
                found[f"{home}.{name}"] = thing
    return found


def lacks_example(thing: Any) -> bool:
    """Whether the docstring shows nothing that a doctest could try."""
    return ">>> " not in (inspect.getdoc(thing) or "")


def check(app: Any, env: Any) -> None:
    """Warn about every public name without an entry in the reference, or without an example."""
    entries = env.get_domain("py").objects
    for name, thing in public_names().items():
        if name not in entries:
            logger.warning("%s is public and has no entry in docs/reference.", name)
        if lacks_example(thing):
            logger.warning("%s is public and its docstring has no example.", name)


def link(role: str, raw: str, text: str, line: int, inliner: Any, *_: Any) -> Any:
    """What docstrings write in single backticks: a link where it is a public name, else code."""
    code = nodes.literal(raw, text)
    for name in (text, f"numadam.{text}", f"numadam.schedules.{text}"):
        if name in _NAMES:
            attributes = {"refdomain": "py", "reftype": "obj", "reftarget": name}
            return [pending_xref(raw, code, **attributes, refexplicit=True)], []
    return [code], []


_NAMES = public_names()


def setup(app: Any) -> dict[str, bool]:
    """Connect all of it to Sphinx."""
    app.add_role("public", link)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}

"""Stubs and texts for editors, which read files and run nothing: `tests/generate.py` writes them.

Every text has one home, the docstring of a class; a stub has it with all that is filled in there.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numadam
from numadam._core.docstrings import first_sentence, parameters
from numadam._core.options import DEFAULTS
from numadam.rules import function_name

#: Classes of `numadam._core.keywords` that signatures name.
KEYWORDS = ("Shared", "SharedButDecay", "FunctionalOptions", "FunctionalButDecay")


def line(texts: dict[str, tuple[str, str]], name: str) -> str:
    """One line on an option: its meaning, then type, range and default."""
    kind, text = texts[name]
    return f"{first_sentence(text)} Type: {kind}."


def quoted(text: str, indent: str = "    ") -> str:
    """A text as a docstring."""
    body = textwrap.indent(text, indent, lambda line: bool(line.strip())).removeprefix(indent)
    end = f"\n{indent}" if "\n\n" in text else ""
    return f'{indent}{"r" if chr(92) in text else ""}"""{body}{end}"""\n'


def field(name: str, kind: str, text: str) -> str:
    """A declaration in a class, with its text below it."""
    return f"    {name}: {kind}\n{quoted(textwrap.fill(text, 90, break_on_hyphens=False))}"


def attributes(kind: type[Any], names: Iterable[str]) -> str:
    """Declarations of the options of a class that its docstring describes."""
    texts, members = parameters(kind.__doc__), vars(kind)
    return "\n".join(
        field(name, type(members[name]).__name__, line(texts, name))
        for name in names
        if name in texts and name in members
    )


def shared_attributes() -> str:
    """``numadam/_optimizer/shared.py``."""
    return f'''"""Options that all rules share, as attributes of an optimiser."""

from __future__ import annotations

from numadam._optimizer.attributes import fixed, hyper


class SharedAttributes:
    """Names and texts for editors; `with_options` makes them."""

{attributes(numadam.Optimizer, DEFAULTS)}'''


def _head(name: str, function: Any) -> str:
    """The signature of a function, whose annotations are texts."""
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
    return f"def {name}{signature}:"


def of_function(function: Any) -> str:
    """A public function: its signature and its text."""
    return f"{_head(function.__name__, function)}\n{quoted(function.__doc__)}"


def of_rule(file: str, kind: type[Any]) -> str:
    """The stub of a file of `numadam.rules`: its class, and the function beside it."""
    function = getattr(import_module(kind.__module__), function_name(file))
    own = attributes(kind, inspect.signature(kind).parameters)
    init = _head("__init__", inspect.unwrap(kind.__init__))
    body = (
        f"class {kind.__name__}({kind.__base__.__name__}):\n"
        f"{quoted(inspect.cleandoc(kind.__doc__))}\n{own}\n    {init} ...\n\n"
        f"{of_function(function)}"
    )
    used = {*re.findall(r"\w+", re.sub(r'r?""".*?"""', "", body, flags=re.DOTALL))}
    imports = "from numadam._optimizer.attributes import fixed, hyper\n"
    imports += f"from numadam._core.keywords import {', '.join(sorted(used & {*KEYWORDS}))}\n"
    text = Path(inspect.getfile(kind)).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module != "numadam._core.keywords":
            names = sorted(used & {one.name for one in node.names})
            imports += f"from {node.module} import {', '.join(names)}\n" if names else ""
    return f"# fmt: off\n# ruff: noqa\n{imports}\n{body}"


def of_nopython(compiled: Iterable[dict[str, Any]]) -> str:
    """``numadam/nopython/__init__.pyi``."""
    functions = "\n".join(of_function(one) for by_name in compiled for one in by_name.values())
    return f"""# fmt: off
# ruff: noqa
from typing import Any
from numadam.nopython.core import VERSION as VERSION
from numadam.nopython.core import Array, Number

__all__: list[str]

{functions}"""

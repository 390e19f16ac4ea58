"""Stubs and texts for editors, which read files and run nothing: `tests/generate.py` writes them.

Every text has one home, the docstring of a class; a stub has it with all that is filled in there.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numadam
from numadam._core.docstrings import first_sentence, parameters
from numadam._core.options import DEFAULTS

PACKAGE = Path(numadam.__file__).parent


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


def _head(text: str, node: ast.FunctionDef) -> str:
    """The signature as it is written, without its body."""
    lines = text.splitlines()[node.lineno - 1 : node.body[0].lineno]
    found = re.match(
        r"(.*?\) -> [^\n]*?:)(?: \.\.\.)?$", "\n".join(lines), re.DOTALL | re.MULTILINE
    )
    if found is None:
        raise SystemExit(f"{node.name}: expected a signature with a type of what it returns.")
    return found.group(1)


def _is_public(node: ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether its decorator makes it a class of optimisers, or a function for users."""
    return bool(node.decorator_list) and not node.name.startswith("_")


def _parts(text: str, module: Any) -> Iterator[str]:
    """The classes of optimisers and the public functions of a module."""
    for node in ast.parse(text).body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or not _is_public(node):
            continue
        thing = getattr(module, node.name)
        doc = quoted(inspect.cleandoc(thing.__doc__))
        if isinstance(node, ast.FunctionDef):
            yield f"{_head(text, node)}\n{doc}"
            continue
        (init,) = (one for one in node.body if isinstance(one, ast.FunctionDef))
        title = f"class {node.name}({ast.unparse(node.bases[0])}):\n"
        own = attributes(thing, inspect.signature(thing).parameters)
        yield f"{title}{doc}\n{own}\n{_head(text, init)} ...\n"


def stub(path: Path) -> str:
    """The stub of a file of `numadam.rules` or `numadam.nopython`."""
    text = path.read_text(encoding="utf-8")
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    body = "\n".join(_parts(text, import_module(name)))
    used = {*re.findall(r"\w+", re.sub(r'r?""".*?"""', "", body, flags=re.DOTALL))}
    imports = "from numadam._optimizer.attributes import fixed, hyper\n" if "class " in body else ""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            names = sorted(used & {one.name for one in node.names})
            imports += f"from {node.module} import {', '.join(names)}\n" if names else ""
    return f"# fmt: off\n# ruff: noqa\n{imports}\n{body}"

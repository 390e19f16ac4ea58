"""Docstrings that are filled in where ``{{name}}`` stands, or made from that of a class."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

_PLACEHOLDER = re.compile(r"^( *)\{\{(\w+)\}\}$", re.MULTILINE)
_SECTION = r"^{}\n-+\n(.*?)(?=^\S[^\n]*\n---|\Z)"
_FORMULA = re.compile(r"^\.\. math::\n(?: .*\n|\n)+", re.MULTILINE)
#: An entry of the parameters: name, type, text.
_DESCRIBED = re.compile(r"^(\w+) : (.*)\n((?: .*\n|\n)*)", re.MULTILINE)


def section(doc: str | None, title: str) -> str:
    """The text of a section of a docstring, or ""."""
    found = re.search(_SECTION.format(title), inspect.cleandoc(doc or "") + "\n", re.M | re.S)
    return found.group(1) if found else ""


@functools.cache
def parameters(doc: str | None) -> dict[str, tuple[str, str]]:
    """Type and text of each parameter that a docstring describes by itself."""
    found = _DESCRIBED.findall(section(doc, "Parameters"))
    return {name: (kind, textwrap.dedent(text).strip()) for name, kind, text in found}


def formula(doc: str | None) -> str:
    """The formula of a docstring, or ""."""
    found = _FORMULA.search(inspect.cleandoc(doc or ""))
    return found.group().rstrip() if found else ""


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    return re.split(r"(?<=[.])\s", text.replace("\n", " "), maxsplit=1)[0]


def number(value: Any) -> str:
    """A default as people write it: 1e-3 for 0.001."""
    if not isinstance(value, float):
        return repr(value)
    digits, _, exponent = f"{value:.0e}".partition("e")
    short = f"{digits}e{int(exponent)}"
    return short if float(short) == value and len(short) < len(repr(value)) else repr(value)


def fill(doc: str | None, texts: Mapping[str, str], defaults: Mapping[str, Any]) -> str | None:
    """A docstring with the text for each line ``{{name}}``, ``{default}`` in it that of `name`."""
    if doc is None:  # python -OO
        return None

    def text(match: re.Match[str]) -> str:
        indent, name = match.groups()
        filled = texts[name].replace("{default}", number(defaults.get(name)))
        return textwrap.indent(filled, indent)

    return _PLACEHOLDER.sub(text, inspect.cleandoc(doc))

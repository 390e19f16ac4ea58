"""Texts for people: short forms of long values, small tables of notebooks, docstrings."""

from __future__ import annotations

import functools
import html
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Elements of an array, and entries of a container, that are shown in full.
_SHORT, _ENTRIES = 6, 4
#: Colours are those of the page: right in a dark notebook, too.
_BEGIN_TABLE = '<table style="border-collapse: collapse; color: inherit">'
_CELL = "text-align: left; padding: 0.1em 0.8em 0.1em 0; vertical-align: top"


def brief(value: Any) -> str:
    """Short form of a value: long arrays as dtype and shape, long containers with dots.

    Examples
    --------
    >>> import numpy as np
    >>> brief({"w": np.zeros((100, 3)), "b": [1, 2, 3, 4, 5]})
    "{'w': float64 array of shape (100, 3), 'b': [1, 2, 3, 4, ...]}"
    """
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        short = getattr(value, "size", 0) <= _SHORT and not value.dtype.hasobject
        return repr(value) if short else f"{value.dtype} array of shape {value.shape}"
    if type(value) is dict:
        entries = [f"{key!r}: {brief(entry)}" for key, entry in list(value.items())[:_ENTRIES]]
        return "{" + ", ".join(_with_dots(entries, len(value))) + "}"
    if type(value) in (list, tuple):
        entries = _with_dots([brief(entry) for entry in value[:_ENTRIES]], len(value))
        if type(value) is list:
            return "[" + ", ".join(entries) + "]"
        return "(" + ", ".join(entries) + ("," if len(value) == 1 else "") + ")"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _with_dots(entries: list[str], count: int) -> list[str]:
    return [*entries, "..."] if count > len(entries) else entries


def number(value: float) -> str:
    """A number with six digits."""
    return f"{value:.6g}"


def count(number: int, noun: str) -> str:
    """``1 array``, ``2,000 arrays``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nbytes(size: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def outline(leaves: Sequence[Any]) -> str:
    """Number of arrays and elements, their dtype and device.

    Examples
    --------
    >>> import numpy as np
    >>> outline([np.zeros((20, 30)), np.zeros(1000)])
    '2 arrays, 1,600 float64, cpu'
    """
    elements = sum(int(leaf.size) for leaf in leaves)
    dtypes = ", ".join(dict.fromkeys(str(leaf.dtype) for leaf in leaves))
    devices = dict.fromkeys(str(getattr(leaf, "device", "cpu")).strip("<>") for leaf in leaves)
    return ", ".join([count(len(leaves), "array"), f"{elements:,} {dtypes}", *devices])


def table(title: str, rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """A small HTML table; every text is escaped.

    Examples
    --------
    >>> "<b>a &lt; b</b>" in table("a < b", [("lr", "0.1")])
    True
    """
    parts = [_BEGIN_TABLE, f"<caption><b>{html.escape(title)}</b></caption>"]
    parts += [_row("th", head)] if head else []
    parts += [_row("td", row) for row in rows]
    return "".join([*parts, "</table>"])


def _row(tag: str, entries: Sequence[str]) -> str:
    cells = (f'<{tag} style="{_CELL}">{html.escape(entry)}</{tag}>' for entry in entries)
    return f"<tr>{''.join(cells)}</tr>"


# --- docstrings -----------------------------------------------------------------------------------
# Each line ``{{name}}`` of one is filled in; others are made from those of the classes.

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


def default_text(value: Any) -> str:
    """A default as people write it: 1e-3 for 0.001."""
    if not isinstance(value, float) or math.isinf(value):
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
        filled = texts[name].replace("{default}", default_text(defaults.get(name)))
        return textwrap.indent(filled, indent)

    return _PLACEHOLDER.sub(text, inspect.cleandoc(doc))

"""Formulas as MathML, written when the pages are built: no script, no font, no network."""

from __future__ import annotations

import re
from typing import Any, NoReturn

#: A command, with its argument where that is no formula; or a name of two letters and more.
_WORDS = re.compile(
    r"\\(?:begin|end|text|mathrm)\{[^}]*\}|\\[a-zA-Z]+|(?P<name>[a-zA-Z]{2,}(?:\\_[a-zA-Z]+)*)"
)


def _name(match: re.Match[str]) -> str:
    r"""A name as one upright element; \mathrm sets its letters one by one where it has a _."""
    name = match["name"]
    if name is None:
        return match[0]
    whole = name.replace(r"\_", "_")
    return rf"\mathrm{{{name}}}" if whole == name else rf"\text{{{whole}}}"


def upright(tex: str) -> str:
    r"""The formula with names such as lr and eps upright, so that docstrings need no \mathrm."""
    return _WORDS.sub(_name, tex)


def _mathml(node: Any, as_block: bool) -> str:
    """MathML of a formula; the build ends where docutils does not know a command."""
    from docutils.utils.math import MathError  # here: the tests read this file without Sphinx
    from docutils.utils.math.latex2mathml import tex2mathml
    from sphinx.errors import ExtensionError

    try:
        return tex2mathml(upright(node.astext()), as_block=as_block)
    except MathError as error:
        place = f"{node.source}:{node.line}"
        raise ExtensionError(f"{place}: formula {node.astext()!r}: {error}") from error


def visit_inline(writer: Any, node: Any) -> NoReturn:
    """A formula in a line of text."""
    from docutils.nodes import SkipNode

    writer.body.append(_mathml(node, as_block=False))
    raise SkipNode


def visit_block(writer: Any, node: Any) -> NoReturn:
    """A formula of its own, in a box that scrolls where it is wider than the page."""
    from docutils.nodes import SkipNode

    writer.body.append(f'<div class="math">{_mathml(node, as_block=True)}</div>\n')
    raise SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Make it the way that HTML pages show formulas."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}

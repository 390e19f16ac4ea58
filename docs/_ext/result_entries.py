"""Tables of the entries of a result, from the texts of its class."""

from __future__ import annotations

import inspect
import re
from typing import Any

from sphinx.util.docutils import SphinxDirective

import numadam


class ResultEntries(SphinxDirective):
    """The entries that a class of results declares: name, type, meaning."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Make a table in Markdown, and parse it."""
        rows = ["| entry | type | meaning |", "|---|---|---|"]
        text = inspect.getdoc(getattr(numadam, self.arguments[0])) or ""
        for name, kind, meaning in re.findall(r"^(\w+) : (.*)\n    (.*)$", text, re.MULTILINE):
            rows.append(f"| `{name}` | {kind} | {meaning} |")
        return self.parse_text_to_nodes("\n".join(rows))


def setup(app: Any) -> dict[str, bool]:
    """Connect it to Sphinx."""
    app.add_directive("result-entries", ResultEntries)
    return {"parallel_read_safe": True}

"""Tables of the entries of a result, from the texts of its class."""

from __future__ import annotations

from typing import Any

from sphinx.util.docutils import SphinxDirective

import numadam
from numadam._minimize.result import entries


class ResultEntries(SphinxDirective):
    """The entries that a class of results declares: name, type, meaning."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Make a table in Markdown, and parse it."""
        rows = ["| entry | type | meaning |", "|---|---|---|"]
        for name, one in entries(getattr(numadam, self.arguments[0])).items():
            kind = "array" if one.type == "Any" else f"`{one.type}`"
            rows.append(f"| `{name}` | {kind} | {one.__doc__} |")
        return self.parse_text_to_nodes("\n".join(rows))


def setup(app: Any) -> dict[str, bool]:
    """Connect it to Sphinx."""
    app.add_directive("result-entries", ResultEntries)
    return {"parallel_read_safe": True}

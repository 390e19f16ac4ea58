"""The directive `benchmark-tables`: tables that asv_benchmarks makes of a JSON file."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from sphinx.util.docutils import SphinxDirective

PROGRAMS = Path(__file__).parents[2] / "asv_benchmarks"


def tables(name: str) -> str:
    """Tables of a program, such as processors, as Markdown."""
    if str(PROGRAMS) not in sys.path:
        sys.path.append(str(PROGRAMS))
    program = importlib.import_module(name)
    text: str = program.tables(json.loads(program.DATA.read_text(encoding="utf-8")))
    return text


class BenchmarkTables(SphinxDirective):
    """Tables of the program that is named."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Make them anew, whenever the page is read."""
        return self.parse_text_to_nodes(tables(self.arguments[0]))


def setup(app: Any) -> dict[str, bool]:
    """Make the directive known."""
    app.add_directive("benchmark-tables", BenchmarkTables)
    return {"parallel_read_safe": True}

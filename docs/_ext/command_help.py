"""The directive `command-help`: the --help text of a command, taken when the page is built."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from docutils import nodes
from form import COLUMNS
from sphinx.util.docutils import SphinxDirective


class CommandHelp(SphinxDirective):
    """The help of the command that is named, or of `python -m numadam` itself."""

    optional_arguments = 1

    def run(self) -> list[Any]:
        """Ask the command, in a process of its own."""
        command = [sys.executable, "-m", "numadam", *self.arguments, "--help"]
        settings = {
            **os.environ,
            "COLUMNS": str(COLUMNS + 2),  # argparse leaves two free
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        if done.returncode:
            raise self.error(f"{' '.join(command[1:])} failed: {done.stderr}")
        return [nodes.literal_block(done.stdout, done.stdout, language="text")]


def setup(app: Any) -> dict[str, bool]:
    """Make the directive known."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}

"""Check of the built search: what users type finds its page among the first three.

The search runs as in a browser, by its own code, if Node.js is installed (search_words.js).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sphinx.util import logging

#: What users type, and the page that they look for.
PAGES = {
    "bounds": "how-to/bounds",
    "nan": "how-to/options",
    "learning rate": "how-to/learning-rate",
    "weight decay": "how-to/options",
    "gpu": "tutorials/gpu",
    "checkpoint": "how-to/checkpoint",
    "many fits": "how-to/many-problems",
    "float16": "explanation/casting",
    "slow first call": "how-to/cold-start",
    "stop early": "how-to/watch-a-run",
    "uncertainty": "how-to/uncertainty",
    "error bars": "how-to/uncertainty",
    "callback": "how-to/watch-a-run",
    "cite": "index",
    "compile": "how-to/cold-start",
}
FIRST = 3


def missed(found: dict[str, list[str]]) -> list[str]:
    """Words that find their page too late, with the pages that come first."""
    return [
        f"{words!r}: expected {page} among {found[words][:FIRST]}"
        for words, page in PAGES.items()
        if page not in found[words][:FIRST]
    ]


def check(app: Any, exception: Exception | None) -> None:
    """Raise where a search of the built pages misses."""
    node = shutil.which("node")
    if exception or app.builder.name != "html":
        return
    if node is None:
        logging.getLogger(__name__).info("The search is not checked: Node.js is missing.")
        return
    command = [node, str(Path(__file__).with_suffix(".js")), str(app.outdir), *PAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The search cannot run: {done.stderr}")
    if late := missed(json.loads(done.stdout)):
        raise RuntimeError("The search misses pages:\n" + "\n".join(late))


def setup(app: Any) -> dict[str, bool]:
    """Check when all is written."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}

"""Checks of form: code of 76 columns at most, no picture twice, nothing from another host."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

COLUMNS = 76
#: Elements that a browser loads by itself; links that a reader follows are none of them.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\s(?:src|data|srcset)="
    r"[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon))"
    r"[^>]*\shref=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|(?:@import\s*|url\(\s*)[\"']?(?:https?:)?//[^\"')\s]+",
    re.IGNORECASE,
)


def from_elsewhere(text: str) -> list[str]:
    """Parts of a page or a style sheet that a browser would load from another host."""
    return _LOADED.findall(text)


def wide_lines(code: str) -> list[str]:
    """Lines of a code block that are wider than a page shows."""
    return [line for line in code.splitlines() if len(line) > COLUMNS]


def repeated(uris: list[str]) -> list[str]:
    """Entries that a list has more than once."""
    return sorted(uri for uri, count in Counter(uris).items() if count > 1)


def check_columns(app: Any, env: Any) -> None:
    """Warn, and so fail, about every line of code that is too wide; output of programs too."""
    from sphinx.util import logging  # here: the tests read this file without Sphinx

    for page in sorted(env.found_docs):
        for node in env.get_doctree(page).findall():
            if node.tagname in ("literal_block", "doctest_block"):
                for line in wide_lines(node.astext()):
                    text = "%d columns, of %d at most: %s"
                    place = node if node.source and node.line else page
                    logging.getLogger(__name__).warning(
                        text, len(line), COLUMNS, line.strip(), location=place
                    )


def check_pictures(app: Any, env: Any) -> None:
    """Warn, and so fail, about a picture that a page shows twice.

    Two plot directives of a Markdown page write one file, unless they have a :filename-prefix:.
    """
    from sphinx.util import logging

    for page in sorted(env.found_docs):
        images = [
            node["uri"] for node in env.get_doctree(page).findall() if node.tagname == "image"
        ]
        for uri in repeated(images):
            logging.getLogger(__name__).warning("%s is shown twice.", uri, location=page)


def check_hosts(app: Any, exception: Exception | None) -> None:
    """Raise where a built page or style sheet needs the network."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    found = {
        f"{path.relative_to(out)}: {text}"
        for path in (*out.rglob("*.html"), *out.rglob("*.css"))
        for text in from_elsewhere(path.read_text(encoding="utf-8"))
    }
    if found:
        raise RuntimeError("Pages load from another host:\n" + "\n".join(sorted(found)))


def setup(app: Any) -> dict[str, bool]:
    """Check code and pictures when all is read, and the pages when all is written."""
    app.connect("env-check-consistency", check_columns)
    app.connect("env-check-consistency", check_pictures)
    app.connect("build-finished", check_hosts)
    return {"parallel_read_safe": True}

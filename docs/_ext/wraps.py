"""Places where a long name may wrap: after its underscores, on a phone say."""

from __future__ import annotations

import re
from typing import Any

#: Inline code, and names of arguments that link to a page.
_NAME = re.compile(r'(<span class="(?:pre|doc)">|<strong>)([^<]*_[^<]*)(?=</)')


def with_breaks(page: str) -> str:
    """HTML with a place to wrap after each underscore of a name."""
    return _NAME.sub(lambda found: found[1] + found[2].replace("_", "_<wbr>"), page)


def change(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Change the body of a page before it is written."""
    if "body" in context:
        context["body"] = with_breaks(context["body"])


def setup(app: Any) -> dict[str, bool]:
    """Connect it to Sphinx."""
    app.connect("html-page-context", change)
    return {"parallel_read_safe": True}

"""The Python blocks of a page in Markdown, and whether one can run here."""

from __future__ import annotations

import importlib.util
import re

#: A block, and before it what it needs beyond the tests: a package, or words such as "a GPU".
BLOCK = re.compile(
    r"^(?:<!-- needs ([\w ]+) -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def lacking(need: str) -> bool:
    """Whether a block's need is one that is not there: a package, or more than a package."""
    return bool(need) and (" " in need or importlib.util.find_spec(need) is None)

"""The Python blocks of a page in Markdown, and the drop-ins, as a reader copies them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

#: A block, and before it what it needs beyond the tests: a package, or words such as "a GPU".
BLOCK = re.compile(
    r"^(?:<!-- needs ([\w ]+) -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def lacking(need: str) -> bool:
    """Whether a block's need is one that is not there: a package, or more than a package."""
    return bool(need) and (" " in need or importlib.util.find_spec(need) is None)


DROP_INS = Path(__file__).parents[1] / "docs" / "how-to" / "drop-ins.md"
#: Blocks of the sections on drop-ins by title: what each needs, and its code.
DROP_IN_BLOCKS = {
    title: BLOCK.findall(rest)
    for title, _, rest in (
        part.partition("\n") for part in DROP_INS.read_text(encoding="utf-8").split("\n## ")[1:]
    )
}


def run_drop_in(title: str) -> dict[str, Any]:
    """The names of a section after its blocks: the drop-in, and ``difference`` on its example."""
    names: dict[str, Any] = {}
    for _, code in DROP_IN_BLOCKS[title]:
        exec(compile(code, f"{DROP_INS.name}, {title}", "exec"), names)
    return names

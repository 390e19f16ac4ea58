"""The drop-ins of docs/how-to/drop-ins.md, as a reader copies them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.pages import BLOCK

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "drop-ins.md"
#: Modules of the sections; a section has one block or more.
SECTIONS = {
    title: BLOCK.findall(rest)
    for title, _, rest in (
        part.partition("\n") for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    )
}


def needed(title: str) -> list[str]:
    """Modules that the blocks of a section need beyond those of the tests."""
    return [need for need, _ in SECTIONS[title] if need]


def run(title: str) -> dict[str, Any]:
    """The names of a section after its blocks: the drop-in, and ``difference`` on its example."""
    names: dict[str, Any] = {}
    for _, code in SECTIONS[title]:
        exec(compile(code, f"{PAGE.name}, {title}", "exec"), names)
    return names

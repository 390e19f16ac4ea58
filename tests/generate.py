"""Write what follows from rules and options: ``python -m tests.generate``, after adding one.

The table in ``numadam/rules/__init__.py``, lists of rules and options, the bits of new
rules in ``tests/data/bits.json``, what ``.ci/owner.toml`` says, and the stubs, which git ignores
and an install writes. Tests say when one is out of date.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from numadam import rules
from tests import owner, reference_page, stubs
from tests.stubs import PACKAGE, ROOT

PAGES = ROOT / "docs" / "reference"


def table(files: dict[str, str]) -> str:
    """``numadam/rules/__init__.py`` with its table."""
    text = (PACKAGE / "rules" / "__init__.py").read_text(encoding="utf-8")
    lines = "".join(f'    "{file}": "{name}",\n' for file, name in files.items())
    return re.sub(r"(?<=^CLASSES = \{\n).*?(?=^\})", lines, text, flags=re.MULTILINE | re.DOTALL)


def _front(file: str, key: str) -> str:
    """A line of the front matter of a rule's page."""
    text = (PAGES / "rules" / f"{file}.md").read_text(encoding="utf-8")
    found = re.search(rf'^{key}: "(.*)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit(f'docs/reference/rules/{file}.md: its front matter has no {key}: "...".')
    return found.group(1)


def index_page(files: dict[str, str]) -> str:
    """``docs/reference/rules/index.md`` with its table and its table of contents."""
    text = (PAGES / "rules" / "index.md").read_text(encoding="utf-8")
    rows = "".join(
        f"| [{name}]({file}.md) | {_front(file, 'summary')} | {_front(file, 'state')} |\n"
        for file, name in files.items()
    )
    text = re.sub(r"(?<=^\|---\|---\|---\|\n)(\|.*\n)*", rows, text, flags=re.MULTILINE)
    contents = "".join(f"{file}\n" for file in files)
    return re.sub(r"(?<=^:hidden:\n\n)(\w+\n)*", contents, text, flags=re.MULTILINE)


def written() -> dict[Path, str]:
    """Every file that is written, and what it has to hold."""
    files = stubs.rule_files()
    return {
        PACKAGE / "rules" / "__init__.py": table(files),
        PAGES / "rules" / "index.md": index_page(files),
        PAGES / "all-options.md": reference_page.page(stubs.rule_classes()),
        **owner.written(),
        **stubs.stubs(),
    }


def record_bits() -> None:
    """Add the bits of new rules to the recorded ones, which stay, and leave out those of none."""
    from tests.faults import platform_bits  # its cases are those of the table of rules

    recorded = json.loads(platform_bits.RECORDED.read_text(encoding="utf-8"))
    cases = (*platform_bits.CASES, *platform_bits.RUNS)
    bits = {case: recorded.get(case) or platform_bits.digest_of(case) for case in cases}
    platform_bits.RECORDED.write_text(json.dumps(bits, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stubs.write(written())
    rules.CLASSES.update(stubs.rule_files())
    record_bits()

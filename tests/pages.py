"""The Python blocks of a page in Markdown, and the programs of the page on drop-ins."""

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


DROP_INS = Path(__file__).parents[1] / "docs" / "how-to" / "drop_ins"
#: Programs of the page on drop-ins by title, and the package that each needs beyond the tests.
DROP_IN_NEEDS = {
    "basinhopping": "",
    "lmfit": "lmfit",
    "iminuit": "iminuit",
    "scikit-learn": "",
    "PaCMAP": "pacmap",
    "pyribs": "ribs",
    "quimb": "quimb",
    "ODL": "odl",
    "PyVBMC": "pyvbmc",
    "PennyLane": "pennylane",
}


def drop_in(title: str) -> Path:
    """The file of a program."""
    return DROP_INS / f"{title.lower().replace('-', '_')}.py"


def run_drop_in(title: str) -> dict[str, Any]:
    """The names of a program after its run: the drop-in, and ``difference`` on its example."""
    names: dict[str, Any] = {}
    path = drop_in(title)
    exec(compile(path.read_text(encoding="utf-8"), path.name, "exec"), names)
    return names

"""Names of arguments that lead to the page on them."""

from __future__ import annotations

import re
from typing import Any

#: Pages by the name of an argument, for every function and class that has it.
PAGES = {
    "bounds": "how-to/bounds",
    "callback": "how-to/watch-a-run",
    "checkpoint": "how-to/checkpoint",
    "clip_norm": "how-to/options",
    "comm": "how-to/mpi",
    "ema": "how-to/options",
    "groups": "how-to/options",
    "history": "how-to/watch-a-run",
    "like": "explanation/other-libraries",
    "lr": "how-to/learning-rate",
    "nonfinite": "how-to/options",
    "progress": "how-to/watch-a-run",
    "rule": "how-to/which-rule",
    "sparse": "how-to/update-rows",
    "weight_decay": "how-to/options",
}
#: An argument as numpydoc writes it.
ARGUMENT = re.compile(r"^(\s+)\*\*(?P<name>\w+)\*\*(?= :)")


def link_names(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Write the name of an argument as a link, once numpydoc has made a list of them."""
    for k, line in enumerate(lines):
        argument = ARGUMENT.match(line)
        if argument and argument["name"] in PAGES:
            link = f":doc:`{argument['name']} </{PAGES[argument['name']]}>`"
            lines[k] = argument[1] + link + line[argument.end() :]


def setup(app: Any) -> dict[str, bool]:
    """Connect it to Sphinx, after numpydoc."""
    app.connect("autodoc-process-docstring", link_names, priority=900)
    return {"parallel_read_safe": True}

"""Text of ``docs/reference/all-options.md``: a line on every option and every public function.

The site shows whole docstrings; this page can be read in the repository, too.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numadam
from numadam import schedules
from numadam._arrays.formatting import default_text, first_sentence, parameters
from numadam._core.options import DEFAULTS
from numadam._optimizer.declared import PURPOSES, members
from numadam.nopython.functions import of_rule
from numadam.rules import function_name

_TOP = """\
# All options and functions

<!-- Written by `python -m tests.generate` from the docstrings: do not edit. -->

A line on each. `help(numadam.Optimizer)` and the other pages of the [reference](index.md) say more.
"""
#: Functions and classes beside the rules, in the order of a program.
_OTHERS = (
    *("minimize", "minimize_many", "least_squares_many", "check_grad", "scipy_adam"),
    *("load", "rule", "check_rule", "History", "Rows", "Result", "ManyResult", "GradientCheck"),
    *("CheckpointError", "CacheWarning"),
)


def _cell(text: str) -> str:
    """A text of a docstring as one cell of a Markdown table."""
    return text.replace("``", "`").replace("|", "\\|").replace("\n", " ").replace(r"\*", "*")


def _table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; the heads of its columns are separated by bars."""
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _call(name: str, thing: Any) -> str:
    """A call with all defaults, in code."""
    if isinstance(thing, type):
        thing = inspect.unwrap(thing.__init__)
    given = []
    for p in inspect.signature(thing).parameters.values():
        if p.name != "self":
            default = "" if p.default is p.empty else f"={default_text(p.default)}"
            given.append(str(p.replace(annotation=p.empty, default=p.empty)) + default)
            if p.kind is p.KEYWORD_ONLY and "*" not in given:
                given.insert(-1, "*")
    return f"`{name}({', '.join(given)})`"


def _summary(thing: Any) -> str:
    """The first sentence of a docstring."""
    return first_sentence((inspect.getdoc(thing) or "").partition("\n\n")[0])


def _described(doc: str | None, names: Iterable[str] | None = None) -> Iterable[list[str]]:
    """Name, type and first sentence of parameters of a docstring."""
    texts = parameters(doc)
    return (
        [f"`{name}`", texts[name][0], first_sentence(texts[name][1])] for name in names or texts
    )


def _own_options(kinds: Mapping[str, Any]) -> Iterable[list[str]]:
    """Options of some rules: name, rules, type and first sentence, each different text once."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for kind in kinds.values():
        for name, (of, text) in parameters(kind.__doc__).items():
            if name not in (*DEFAULTS, "params", "lr"):
                found.setdefault((name, of, first_sentence(text)), []).append(kind.__name__)
    return ([f"`{key[0]}`", ", ".join(found[key]), *key[1:]] for key in sorted(found))


def page(kinds: Mapping[str, Any]) -> str:
    """The whole page; `kinds` are the classes of the rules, by file."""
    optimizer = numadam.Optimizer
    parts = [_TOP, "## Options of every rule\n"]
    for purpose, names in PURPOSES.items():
        parts += [
            f"### {purpose}\n",
            _table("option | type | meaning", _described(optimizer.__doc__, names)),
        ]
    parts += ["## Options of some rules\n", "Every rule also takes `params` and `lr`.\n"]
    parts.append(_table("option | rules | type | meaning", _own_options(kinds)))
    parts.append("## Optimisers\n")
    parts.append(
        _table("class | meaning", ([_call(k.__name__, k), _summary(k)] for k in kinds.values()))
    )
    parts.append("## Methods and attributes of an optimiser\n")
    rows = ([_call(n, m) if callable(m) else f"`{n}`", _summary(m)] for n, m in members().items())
    parts.append(_table("name | meaning", rows))
    parts.append("## One step on your own arrays\n")
    # not from numadam itself, whose list of rules lacks one that this program is to write into it
    homes = {function_name(file): sys.modules[kind.__module__] for file, kind in kinds.items()}
    parts.append("".join(f"- {_call(n, getattr(home, n))}\n" for n, home in homes.items()))
    parts.append("## Other functions and classes\n")
    others = {name: getattr(numadam, name) for name in _OTHERS}
    calls = (
        [_call(n, t) if n in _OTHERS[:10] else f"`{n}`", _summary(t)] for n, t in others.items()
    )
    parts.append(_table("name | meaning", calls))
    parts.append("## Arguments of minimize\n")
    parts.append(_table("argument | type | meaning", _described(numadam.minimize.__doc__)))
    parts.append("## Schedules\n")
    made = {name: getattr(schedules, name) for name in schedules.__all__}
    parts.append(
        _table(
            "class of `numadam.schedules` | meaning",
            ([_call(n, t), _summary(t)] for n, t in made.items()),
        )
    )
    parts.append("## Functions for your own compiled code\n")
    functions = [one for rule in kinds.items() for one in of_rule(*rule).items()]
    parts.append("".join(f"- {_call(n, getattr(f, 'py_func', f))}\n" for n, f in functions))
    return "\n".join(parts)

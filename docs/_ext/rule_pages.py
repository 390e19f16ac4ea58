"""The pages of the rules: what all of them have, and no rule without a page."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from sphinx.util import inspect as signature
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import numadam
from numadam import rules
from numadam.nopython import functions

logger = logging.getLogger(__name__)
PAGES = "reference/rules"
#: What a page of a rule has to have, besides its text.
PARTS = ("{rule-formula}", "{rule-picture}", "## Advice", "{rule-entries}")
MATH = re.compile(r"^\.\. math::.*?(?=^\S)", re.MULTILINE | re.DOTALL)
#: The lists of options, methods and attributes of every rule, which have pages of their own.
SHARED = re.compile(r" says more about each:\n.*?^Notes\n-----\n.*?(?=^\S[^\n]*\n---)", re.M | re.S)


class RuleFormula(SphinxDirective):
    """The formula of a rule, which its docstring holds."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Parse the formula in the docstring of the rule."""
        cls = rules.classes()[self.arguments[0]]
        found = MATH.search(inspect.getdoc(cls))
        if not found:
            raise self.error(f"The docstring of {cls.__name__} has no formula (.. math::).")
        rst = "\n".join(["```{eval-rst}", found.group().rstrip(), "```"])
        return self.parse_text_to_nodes(rst)


_PICTURE = """\
```{{eval-rst}}
.. plot::
   :alt: Paths of {name} and gradient descent, and f at each step.

   import valley
   valley.draw("{name}"{options})
```

*{name}{what} (blue) and gradient descent (grey) on [one function](index.md)*
"""
_ENTRIES = """\
## The class

```{{eval-rst}}
.. currentmodule:: numadam
.. autoclass:: {name}
```

Options and methods: [every rule](../optimizer.md).

## On your own arrays

````{{dropdown}} {function}
```{{eval-rst}}
.. autofunction:: {function}
```
````

In compiled code: [`{function}`](../nopython.md#{file}).
"""


class RulePicture(SphinxDirective):
    """The picture of a rule on the valley; content: options of the rule, such as momentum=0.9."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[Any]:
        """Parse the plot and its caption."""
        (name,), given = self.arguments, ", ".join(self.content)
        options, what = (f", {given}", f" with {given}") if given else ("", "")
        return self.parse_text_to_nodes(_PICTURE.format(name=name, options=options, what=what))


class RuleEntries(SphinxDirective):
    """Entries of the class of a rule and of its function, with their headings."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Parse what all pages of rules have at their end."""
        (name,) = self.arguments
        file = next(file for file, kind in rules.CLASSES.items() if kind == name)
        text = _ENTRIES.format(name=name, file=file, function=rules.function_name(file))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


_NOPYTHON = """\
## {name}

````{{dropdown}} Functions of {name}
```{{eval-rst}}
.. currentmodule:: numadam.nopython

{entries}
```
````
"""


class NopythonEntries(SphinxDirective):
    """Entries of the functions for compiled code, with a heading for each rule."""

    def run(self) -> list[Any]:
        """Parse a section for each rule: update, element and scalars first."""
        sections = []
        for file, name in rules.CLASSES.items():
            kind = rules.classes()[name]
            names = [f"{file}_update", f"{file}_element", f"{file}_scalars"]
            names += [one for one in functions.of_rule(file, kind) if one not in names]
            entries = "\n".join(f".. autofunction:: {one}" for one in names)
            sections.append(_NOPYTHON.format(name=name, entries=entries))
        return self.parse_text_to_nodes("\n".join(sections), allow_section_headings=True)


def shorten(app: Any, what: str, name: str, thing: Any, options: Any, lines: Any) -> None:
    """Leave out what stands elsewhere: the formula above, the shared options on their page."""
    if thing in rules.classes().values():
        text = MATH.sub("", "\n".join(lines))
        lines[:] = SHARED.sub(" describes them.\n\n", text).split("\n")


def leave_out_options(
    app: Any, what: str, name: str, thing: Any, options: Any, shown: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show ``**shared`` for the options of every rule, which signatures name for completion."""
    if shown is None or thing not in rules.classes().values():
        return shown, returns
    plain = signature.signature(thing.__init__.__get__(thing))
    return signature.stringify_signature(plain, show_annotation=False), returns


def check(app: Any, env: Any) -> None:
    """Warn, and so fail, about a rule without a page, and about a page with a part missing."""
    for file, name in rules.CLASSES.items():
        page = f"{PAGES}/{file}"
        if page not in env.found_docs:
            logger.warning(
                "%s has no page: write docs/%s.md, as docs/%s/adam.md.", name, page, PAGES
            )
            continue
        text = Path(env.doc2path(page)).read_text(encoding="utf-8")
        for part in PARTS:
            if part not in text:
                logger.warning("docs/%s.md has no %r, which adam.md there has.", page, part)


def setup(app: Any) -> dict[str, bool]:
    """Connect all of it to Sphinx."""
    for function in (numadam.minimize, numadam.minimize_many):
        del function.__signature__  # for completion: autodoc reads defaults in the source
    app.add_directive("rule-formula", RuleFormula)
    app.add_directive("rule-picture", RulePicture)
    app.add_directive("rule-entries", RuleEntries)
    app.add_directive("nopython-entries", NopythonEntries)
    app.connect("autodoc-process-docstring", shorten, priority=400)
    app.connect("autodoc-process-signature", leave_out_options)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}

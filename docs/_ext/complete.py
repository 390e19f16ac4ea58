"""A check that nothing public is left out: a missing entry or example is a warning of the build.

Text in single backticks in docstrings becomes a link where it is a public name.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from public_names import HOMES, lacks_example, missing_parameters, public_names
from sphinx.addnodes import pending_xref
from sphinx.util import logging

logger = logging.getLogger(__name__)
NAMES = public_names()


def check(app: Any, env: Any) -> None:
    """Warn about every public name without an entry in the reference, an example, a parameter."""
    entries = env.get_domain("py").objects
    for name, thing in NAMES.items():
        if name not in entries:
            logger.warning("%s is public and has no entry in docs/reference.", name)
        if lacks_example(thing):
            logger.warning("%s: the docstring has no example.", name)
        for parameter in missing_parameters(thing):
            logger.warning("%s: the docstring does not name %s.", name, parameter)


def link(role: str, raw: str, text: str, line: int, inliner: Any, *_: Any) -> Any:
    """A link where the text is a public name, of the module that is described first, else code."""
    code = nodes.literal(raw, text)
    here = inliner.document.settings.env.ref_context.get("py:module")
    for name in (text, *(f"{home}.{text}" for home in (here, *HOMES))):
        if name in NAMES:
            attributes = {"refdomain": "py", "reftype": "obj", "reftarget": name}
            return [pending_xref(raw, code, **attributes, refexplicit=True)], []
    return [code], []


def setup(app: Any) -> dict[str, bool]:
    """Connect all of it to Sphinx."""
    app.add_role("public", link)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}

"""Types and texts of options as keywords, for checkers and editors; for `tests/generate.py`."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import numadam
from numadam._core import hyper
from numadam._core.docstrings import first_sentence, parameters
from numadam._core.options import OF_UPDATES
from numadam._minimize.arguments import not_for_many, not_for_one
from numadam._mpi.slices import REFUSED
from tests.stubs import field, line

PACKAGE = Path(numadam.__file__).parent
SHARED = parameters(numadam.Optimizer.__doc__)


def shared_types() -> dict[str, str]:
    """The type of each option that all rules share, as it is written there."""
    tree = ast.parse((PACKAGE / "_core" / "options.py").read_text(encoding="utf-8"))
    return {
        ast.unparse(node.target): ast.unparse(node.annotation)
        for kind in tree.body
        if isinstance(kind, ast.ClassDef) and kind.name == "SharedOptions"
        for node in kind.body
        if isinstance(node, ast.AnnAssign)
    }


def _fields(types: dict[str, str], texts: dict[str, str]) -> str:
    return "\n".join(field(name, types[name], texts[name]) for name in types)


def of_rules() -> str:
    """``numadam/_core/keywords.py``."""
    texts = {name: line(SHARED, name) for name in SHARED}
    types = shared_types()
    plain = {name: types[name].replace(" | Schedule", "") for name in OF_UPDATES}
    decay = {"weight_decay": types.pop("weight_decay")}, {"weight_decay": plain.pop("weight_decay")}
    return f'''"""Keywords of optimiser classes and update functions, for signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from numadam._core.hyper import {", ".join(_choices_in(types))}

if TYPE_CHECKING:
    import numpy as np


class SharedButDecay(TypedDict, total=False):
    """Keywords of every rule but `weight_decay`, for a rule that declares that one itself."""

{_fields(types, texts)}

class Shared(SharedButDecay, total=False):
    """Keywords that every rule takes; `numadam.Optimizer` describes each."""

{_fields(decay[0], texts)}

class FunctionalButDecay(TypedDict, total=False):
    """Keywords of every update function but `weight_decay`: no array or counter is kept."""

{_fields(plain, texts)}

class FunctionalOptions(FunctionalButDecay, total=False):
    """Keywords that every update function takes."""

{_fields(decay[1], texts)}'''


def option_types(kinds: dict[str, type[Any]]) -> dict[str, str]:
    """The type of every option, those that all rules share first."""
    types = shared_types()
    for kind in kinds.values():
        for one in inspect.signature(kind).parameters.values():
            if one.kind is one.KEYWORD_ONLY:
                known = types.get(one.name, one.annotation).split(" | ")
                missing = [part for part in one.annotation.split(" | ") if part not in known]
                types[one.name] = " | ".join([*known, *missing])
    return types


def option_texts(kinds: dict[str, type[Any]]) -> dict[str, str]:
    """A line on every option; of those that not all rules have, the rules, which have defaults."""
    texts = {name: line(SHARED, name) for name in SHARED}
    for kind in kinds.values():
        for name, (_, text) in parameters(kind.__doc__).items():
            if name not in texts:
                having = [title for title, one in kinds.items() if hasattr(one, name)]
                texts[name] = f"{first_sentence(text)} Of {', '.join(having)}."
    return texts


def _choices_in(types: dict[str, str]) -> list[str]:
    """The names of choices in types."""
    used = {name for text in types.values() for name in re.findall(r"\w+", text)}
    return sorted(name for name in used if get_args(getattr(hyper, name, None)))


def _import_of_choices(types: dict[str, str]) -> str:
    """What an import lists: a line each."""
    return "(\n" + "".join(f"    {name},\n" for name in _choices_in(types)) + ")"


def of_runs(kinds: dict[str, type[Any]]) -> str:
    """``numadam/_minimize/keywords.py``."""
    types, texts = option_types(kinds), option_texts(kinds)
    of_one = {name: types[name] for name in types if name not in not_for_one()}
    of_many = {name: of_one[name] for name in of_one if name not in not_for_many()}
    rule_names = "".join(f'    "{kind.lower()}",\n' for kind in kinds)
    return f'''"""Options of rules as keywords of `minimize` and `minimize_many`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from numadam._core.hyper import {_import_of_choices(of_one)}
from numadam._minimize.arguments import OfSciPy

RuleName = Literal[
{rule_names}]


class ManyOptions(OfSciPy, total=False):
    """Keywords of `minimize_many`."""

{_fields(of_many, texts)}

class Options(ManyOptions, total=False):
    """Keywords of `minimize`."""

{_fields({name: of_one[name] for name in of_one if name not in of_many}, texts)}'''


def of_sharded(kinds: dict[str, type[Any]]) -> str:
    """``numadam/mpi/keywords.py``."""
    every = option_types(kinds)
    types = {name: every[name] for name in every if name not in REFUSED}
    return f'''"""Options of rules as keywords of `Sharded`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from numadam._core.hyper import {_import_of_choices(types)}

if TYPE_CHECKING:
    import numpy as np


class Options(TypedDict, total=False):
    """Keywords of `Sharded`."""

{_fields(types, option_texts(kinds))}'''

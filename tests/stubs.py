"""Stubs for editors and type checkers, which read files and run nothing; a build writes them.

Every text has one home, the docstring of a class; a stub has it with all that is filled in there.
Nothing here needs a package that numadam depends on: a build has stand-ins for them.
"""

from __future__ import annotations

import collections.abc
import inspect
import re
import textwrap
import typing
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numadam
from numadam import rules
from numadam._arrays.formatting import first_sentence, parameters
from numadam._core import hyper
from numadam._core.options import DEFAULTS, OF_UPDATES, SharedOptions
from numadam._minimize.arguments import not_for_many, not_for_one
from numadam._optimizer import base
from numadam.nopython.functions import of_rule

ROOT = Path(__file__).parents[1]
PACKAGE = Path(numadam.__file__).parent
NOTE = "# Written by `python -m tests.stubs`: do not edit.\n# fmt: off\n# ruff: noqa\n"

#: Homes of the names in signatures: of a name that several have, the first one.
_HOMES = (collections.abc, typing, hyper, base)
#: Classes of the stub of keywords that the signatures of rules name.
_KEYWORDS = {"Shared", "SharedButDecay", "FunctionalOptions", "FunctionalButDecay"}


def rule_files() -> dict[str, str]:
    """The class of each file in `numadam.rules`; new files come last."""
    found = {}
    files = {path.stem for path in (PACKAGE / "rules").glob("[!_]*.py")}
    known = [file for file in rules.CLASSES if file in files]
    for file in [*known, *sorted(files - {*known})]:
        text = (PACKAGE / "rules" / f"{file}.py").read_text(encoding="utf-8")
        names = re.findall(r"^@optimizer_class\nclass (\w+)\(", text, re.MULTILINE)
        if len(names) != 1:
            raise SystemExit(f"numadam/rules/{file}.py: expected one class with @optimizer_class.")
        found[file] = names[0]
    return found


def rule_classes() -> dict[str, Any]:
    """The class of each rule by its file."""
    files = rule_files().items()
    return {file: getattr(import_module(f"numadam.rules.{file}"), name) for file, name in files}


# --- parts of a stub -----------------------------------------------------------------------------


def _imports(body: str) -> str:
    """Lines that import what the code of a stub names."""
    missing = {*re.findall(r"\w+", re.sub(r'r?""".*?"""', "", body, flags=re.DOTALL))} - {"np"}
    lines = ""
    for home in _HOMES:
        names = sorted(missing & vars(home).keys())
        lines += f"from {home.__name__} import {', '.join(names)}\n" if names else ""
        missing -= {*names}
    return lines


def _quoted(text: str) -> str:
    """A text as a docstring."""
    body = textwrap.indent(text, "    ", lambda line: bool(line.strip())).lstrip(" ")
    end = "\n    " if "\n\n" in text else ""
    return f'    {"r" if chr(92) in text else ""}"""{body}{end}"""\n'


def _field(name: str, kind: str, text: str) -> str:
    """A declaration in a class, with its text below it."""
    if kind in ("float", "float | None"):  # of an update function, which calls no schedule
        text = text.replace(" or callable", "")
    return f"    {name}: {kind}\n{_quoted(textwrap.fill(text, 90, break_on_hyphens=False))}\n"


def _head(name: str, function: Any) -> str:
    """The signature of a function, whose annotations are texts."""
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
    return f"def {name}{signature}:"


def _function(function: Any) -> str:
    """A public function: its signature and its text."""
    return f"{_head(function.__name__, function)}\n{_quoted(function.__doc__)}\n"


def _line(doc: str | None, name: str) -> str:
    """One line on an option of a class: its meaning, then type, range and default."""
    kind, text = parameters(doc)[name]
    return f"{first_sentence(text)} Type: {kind}."


def _attributes(kind: type[Any], names: Iterable[str]) -> str:
    """Declarations of the options of a class that its docstring describes."""
    texts, members = parameters(kind.__doc__), vars(kind)
    return "".join(
        _field(name, type(members[name]).__name__, _line(kind.__doc__, name))
        for name in names
        if name in texts and name in members
    )


# --- stubs ---------------------------------------------------------------------------------------


def _of_package(files: Mapping[str, str]) -> str:
    """``numadam/__init__.pyi``."""
    homes = dict.fromkeys(numadam._MODULES, "numadam") | numadam._HOMES
    for file, name in files.items():
        homes |= dict.fromkeys([name, rules.function_name(file)], f"numadam.rules.{file}")
    lines = sorted(f"from {home} import {name} as {name}\n" for name, home in homes.items())
    return f"{NOTE}{''.join(lines)}\n__version__: str\n__all__: list[str]\n"


def _of_rule(file: str, kind: type[Any]) -> str:
    """The stub of a file of `numadam.rules`: its class, and the function beside it."""
    base, function = kind.__base__, rules.function_name(file)
    body = (
        f"class {kind.__name__}({base.__name__}):\n"
        f"{_quoted(inspect.cleandoc(kind.__doc__ or ''))}\n"
        f"{_attributes(kind, inspect.signature(kind.__init__).parameters)}"
        f"    {_head('__init__', inspect.unwrap(kind.__init__))} ...\n\n"
        f"{_function(getattr(import_module(kind.__module__), function))}"
    )
    keywords = sorted(_KEYWORDS & {*re.findall(r"Unpack\[(\w+)\]", body)})
    imports = f"from numadam._core.keywords import {', '.join(keywords)}\n"
    imports += f"from {base.__module__} import {base.__name__}\n"
    return f"{NOTE}{_imports(body)}{imports}\n{body}"


def _of_nopython(kinds: Mapping[str, Any]) -> str:
    """``numadam/nopython/__init__.pyi``."""
    functions = [
        _function(getattr(function, "py_func", function))
        for file, kind in kinds.items()
        for function in of_rule(file, kind).values()
    ]
    return f"""{NOTE}from typing import Any
from numadam.nopython.core import VERSION as VERSION
from numadam.nopython.core import Array, Number

__all__: list[str]

{"".join(functions)}"""


# --- keywords ------------------------------------------------------------------------------------


def _option_types(kinds: Mapping[str, Any]) -> dict[str, str]:
    """The type of every option, those that all rules share first."""
    types = {name: kind.__forward_arg__ for name, kind in SharedOptions.__annotations__.items()}
    for kind in kinds.values():
        for option in inspect.signature(kind.__init__).parameters.values():
            if option.kind is option.KEYWORD_ONLY:
                known = types.get(option.name, option.annotation).split(" | ")
                missing = [one for one in option.annotation.split(" | ") if one not in known]
                types[option.name] = " | ".join([*known, *missing])
    return types


def _option_texts(kinds: Mapping[str, Any]) -> dict[str, str]:
    """A line on every option; of those that not all rules have, the rules, which have defaults."""
    shared = numadam.Optimizer.__doc__
    texts = {name: _line(shared, name) for name in parameters(shared)}
    for kind in kinds.values():
        for name, (_, text) in parameters(kind.__doc__).items():
            if name not in texts:
                having = [other.__name__ for other in kinds.values() if hasattr(other, name)]
                texts[name] = f"{first_sentence(text)} Of {', '.join(having)}."
    return texts


def keywords(kinds: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Types of the keywords of each kind of call, by the name of its class in the stub."""
    every = _option_types(kinds)
    shared = {name: every[name] for name in DEFAULTS}
    plain = {name: shared[name].replace(" | Schedule", "") for name in OF_UPDATES}
    of_scipy = {"options": "Mapping[str, Any]", "tol": "float | None", "disp": "bool"}

    def without(types: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
        return {name: kind for name, kind in types.items() if name not in {*names}}

    return {
        "Shared": shared,
        "SharedButDecay": without(shared, ["weight_decay"]),
        "FunctionalOptions": plain,
        "FunctionalButDecay": without(plain, ["weight_decay"]),
        "MinimizeOptions": of_scipy | without(every, not_for_one()),
        "ManyOptions": of_scipy | without(every, not_for_many()),
    }


def _of_keywords(kinds: Mapping[str, Any]) -> str:
    """``numadam/_core/keywords.pyi``."""
    texts = _option_texts(kinds)
    texts |= dict.fromkeys(["options", "tol", "disp"], "As in `scipy.optimize.minimize`.")
    body = "".join(
        f"class {name}(TypedDict, total=False):\n"
        + "".join(_field(option, types[option], texts[option]) for option in types)
        for name, types in keywords(kinds).items()
    )
    body += f"class SharedAttributes:\n{_attributes(numadam.Optimizer, DEFAULTS)}"
    names = [kind.__name__.lower() for kind in kinds.values()]
    body += f"RuleName = Literal{names}\n"
    return f"{NOTE}import numpy as np\n{_imports(body)}\n{body}"


def stubs() -> dict[Path, str]:
    """Every stub, and what it has to hold."""
    kinds = rule_classes()
    return {
        PACKAGE / "__init__.pyi": _of_package(rule_files()),
        PACKAGE / "_core" / "keywords.pyi": _of_keywords(kinds),
        PACKAGE / "nopython" / "__init__.pyi": _of_nopython(kinds),
        **{PACKAGE / "rules" / f"{file}.pyi": _of_rule(file, kinds[file]) for file in kinds},
    }


def write(files: Mapping[Path, str]) -> None:
    """Write files of this checkout; stubs of rules that are gone go, too."""
    if PACKAGE.parent != ROOT:
        raise SystemExit(f"{ROOT}: numadam is imported from another checkout, {PACKAGE.parent}.")
    for path in {*PACKAGE.rglob("*.pyi")} - files.keys():
        path.unlink()
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(stubs())

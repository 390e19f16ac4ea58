"""Build hook of hatchling: the stubs are written before the package is packed, or linked.

They follow from the docstrings and signatures of numadam, which is imported for them. Stand-ins
take the place of the packages that it imports itself, so that a build needs none of them.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import FunctionType
from typing import Any
from unittest.mock import MagicMock

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StandIn(MagicMock):
    """Any module, class, function or decorator."""

    __path__: list[str] = []

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[()]:
        """No class, where it is a base."""
        return ()

    def __instancecheck__(self, instance: object) -> bool:
        """No instance, where it is a class."""
        return False

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """A stand-in; that of a decorated function keeps it, as Numba's do."""
        if args and isinstance(args[0], FunctionType):
            return StandIn(py_func=args[0], __wrapped__=args[0])
        return super().__call__(*args, **keywords)


class Finder:
    """Finder of stand-ins, for `sys.meta_path`."""

    def __init__(self, packages: set[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """A module of these packages, or None."""
        known = name.partition(".")[0] in self._packages
        return ModuleSpec(name, self) if known else None  # type: ignore[arg-type]  # a loader by its methods

    def create_module(self, spec: ModuleSpec) -> Any:
        """The module itself."""
        return StandIn()

    def exec_module(self, module: Any) -> None:
        """Nothing is left to do."""


class StubHook(BuildHookInterface[Any]):
    """Stubs of the checkout, or of the unpacked sdist, that is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the stubs, and have them packed though git ignores them."""
        needed = [re.split(r"[^\w-]", one)[0] for one in self.metadata.core.dependencies]
        packages = {name.replace("-", "_") for name in needed} | {"llvmlite"}
        sys.meta_path.insert(0, Finder(packages))
        sys.path.insert(0, self.root)
        stubs = import_module("tests.stubs")
        stubs.write(stubs.stubs())
        build_data["artifacts"].append("/numadam/**/*.pyi")

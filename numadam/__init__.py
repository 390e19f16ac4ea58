"""Adam for plain arrays: one fused pass over memory per step, on NumPy and CuPy arrays."""

from importlib import import_module
from typing import Any

from numadam._jit import forks as forks  # registers what a fork needs; loads nothing
from numadam._version import __version__
from numadam.rules import CLASSES, function_name

_HOMES = {
    name: f"numadam.rules.{file}"
    for file, kind in CLASSES.items()
    for name in (kind, function_name(file))
}
_HOMES |= {"Optimizer": "numadam._optimizer.optimizer", "Rows": "numadam._arrays.sparse"}
_HOMES |= {"CheckpointError": "numadam._checkpoint.errors", "load": "numadam.rules._load"}
_HOMES |= {
    "History": "numadam.history.history",
    "minimize": "numadam._minimize.minimize",
    "minimize_many": "numadam._minimize.minimize_many",
    "scipy_adam": "numadam._minimize.scipy_method",
}

_MODULES = ("nopython", "schedules")

__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import numadam`` loads no numba."""
    if name in _MODULES:
        return import_module(f"numadam.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'numadam' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

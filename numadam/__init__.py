"""Adam for plain arrays: one fused pass over memory per step, on NumPy and CuPy arrays."""

# names of imports have an underscore: completion shows all others
import sys as _sys
from importlib import import_module as _import_module
from typing import Any as _Any

if not getattr(_sys, "_is_gil_enabled", lambda: True)():
    # reading an array's header and using its address is not one operation there
    raise ImportError(
        "numadam does not support Python without the global interpreter lock: another thread could "
        "resize or free an array in the middle of a step. Start Python with PYTHON_GIL=1 or "
        "-X gil=1, or use a build that has the lock."
    )

from numadam._jit import process as _process  # registers what a fork needs; loads nothing
from numadam._version import __version__
from numadam.rules import CLASSES as _CLASSES
from numadam.rules import function_name as _function_name

_HOMES = {
    name: f"numadam.rules.{file}"
    for file, kind in _CLASSES.items()
    for name in (kind, _function_name(file))
}
_HOMES |= {"Optimizer": "numadam._optimizer.optimizer", "Rows": "numadam._arrays.sparse"}
_HOMES |= {"CheckpointError": "numadam._checkpoint.container", "load": "numadam.rules._load"}
_HOMES |= {"rule": "numadam.rules._define", "check_rule": "numadam._minimize.rule_check"}
_HOMES["CacheWarning"] = "numadam._jit.reports"
_HOMES |= {
    "History": "numadam._history",
    "check_grad": "numadam._gradient.check",
    "GradientCheck": "numadam._gradient.check",
    "minimize": "numadam._minimize.minimize",
    "minimize_many": "numadam._minimize.minimize_many",
    "least_squares_many": "numadam._least_squares.least_squares_many",
    "scipy_adam": "numadam._minimize.minimize",
    "Result": "numadam._minimize.result",
    "ManyResult": "numadam._minimize.result",
}

_MODULES = ("mpi", "nopython", "schedules")

__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> _Any:
    """Import a public name when it is first used: ``import numadam`` loads no numba."""
    if name not in _MODULES and name not in _HOMES:
        hint = ""
        if not name.startswith("__"):  # which tools ask for
            schedules = _import_module("numadam.schedules").__all__
            hint = _import_module("numadam._core.synonyms").public_hint(name, __all__, schedules)
        raise AttributeError(f"module 'numadam' has no attribute {name!r}.{hint}")
    with _process.compile_lock():  # a child forked in the middle would wait for ever
        if name in _MODULES:
            return _import_module(f"numadam.{name}")
        value = getattr(_import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

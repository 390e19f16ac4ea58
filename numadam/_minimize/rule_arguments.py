"""An optimiser whose steps another compiled loop takes: all of it but `step`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from numadam import rules
from numadam._backend import Leaves
from numadam._cpu.state import CpuStore
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.settings import Settings


class DrivenStore(CpuStore):
    """State and table of one array, with a gradient array of its own and no step compiled."""

    def __init__(self, settings: Settings, params: Leaves, names: Sequence[str]) -> None:
        super().__init__(settings, params, names)
        self.begin()


@functools.cache
def driven(rule: type[Optimizer]) -> Any:
    """The same class without a compiled step, for a loop that has its own."""
    own = {"_engine_for": staticmethod(lambda leaves, names: DrivenStore), "__doc__": rule.__doc__}
    return type(rule.__name__, (rule,), {**own, "__module__": rule.__module__})


#: Options that belong to calls of `step`, and what to do instead.
_REFUSED = {
    "maximize": "minimise -fun instead",
    "loss_scale": "f and its gradient belong together: leave it out",
    "accumulate": "each iteration takes one gradient; let fun form the mean",
    "nonfinite": "a run stops at a gradient that is not finite, with status 3",
    "max_skips": "a run stops at a gradient that is not finite, with status 3",
    "sparse": "gradients are dense here; use the optimiser's step",
    "master": "x is float32 or float64 here",
    "state_dtype": "x is float32 or float64 here, and so is the state",
}

#: What SciPy and others call it, and what to write here.
_ELSEWHERE = {
    "method": "the method is called rule='adam', 'sgd', ...",
    "tol": "use gtol, ftol or xtol",
    "options": "write each option as a keyword",
    "max_iter": "write maxiter=...",
    "steps": "write maxiter=...",
    "disp": "progress=True shows a bar",
    "verbose": "progress=True shows a bar",
    "constraints": "Adam knows bounds=... only",
}

#: Names of methods that are options of a rule here.
_VARIANTS = {
    "amsgrad": "rule='adam', amsgrad=True",
    "momentum": "rule='sgd', momentum=0.9",
    "nesterov": "rule='sgd', momentum=0.9, nesterov=True",
}


def rule_class(rule: Any) -> Any:
    """The class of a rule, given by name or as the class itself."""
    if isinstance(rule, type) and issubclass(rule, Optimizer) and rule is not Optimizer:
        return rule
    known = {name.lower(): one for name, one in rules.classes().items()}
    if not isinstance(rule, str) or rule.lower() not in known:
        instead = _VARIANTS.get(str(rule).lower(), "")
        raise ValueError(
            f"rule: expected one of {', '.join(map(repr, known))}, got {rule!r}."
            f"{instead and f' Write {instead}.'}"
        )
    return known[rule.lower()]


def check_options(options: dict[str, Any]) -> None:
    """Refuse options that a minimisation cannot honour."""
    for name, instead in _ELSEWHERE.items():
        if name in options:
            raise TypeError(f"{name}: there is no such argument: {instead}.")
    for name, instead in _REFUSED.items():
        if name in options:
            raise ValueError(f"{name}: not for a minimisation: {instead}.")

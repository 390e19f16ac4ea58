"""Optimiser classes and update functions from their signatures.

A rule writes signatures and docstrings. Their bodies are the same for all rules and are here:
defaults, presets, and which option goes where.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from numadam._core import options as op
from numadam._core.docstrings import fill
from numadam._optimizer.base import OptimizerBase
from numadam._optimizer.functional import update
from numadam._optimizer.texts import OF_CLASSES, OF_FUNCTIONS
from numadam._settings.presets import preset

Arguments = ParamSpec("Arguments")
AnOptimizer = TypeVar("AnOptimizer", bound=OptimizerBase)


class Signature:
    """Signature of a constructor or an update function, read once.

    Attributes
    ----------
    defaults : dict
        Of all parameters that have one.
    own : dict
        Those of the options of the rule.
    required : set of str
        Parameters without a default.
    """

    def __init__(self, function: Callable[..., None], kind: type[OptimizerBase]) -> None:
        parameters = inspect.signature(function).parameters
        named = [one for one in parameters.values() if one.kind is not one.VAR_KEYWORD]
        self.defaults = {one.name: one.default for one in named if one.default is not one.empty}
        rest = {"self", "lr", "out", "t", *kind.rule.state, *op.DEFAULTS}
        self.own = {name: value for name, value in self.defaults.items() if name not in rest}
        self.required = {one.name for one in named if one.default is one.empty}
        self._places = [one.name for one in named if one.kind is not one.KEYWORD_ONLY]
        self._takes = {*parameters, *op.Shared.__annotations__}
        self._title, self._presets = kind.__name__, kind.rule.presets

    def values(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments by name, also those that defaults and the preset give.

        `args` and `given` fit the signature, which a call of the function has shown.
        """
        by_place = dict(zip(self._places, args, strict=False))
        like = given.get("like")
        if like is None:
            return {**self.defaults, **by_place, **given}
        of_library = preset(self._presets, self._title, like)
        taken = {name: value for name, value in of_library.items() if name in self._takes}
        return {**self.defaults, **taken, **by_place, **given}


def optimizer_class(kind: type[AnOptimizer]) -> type[AnOptimizer]:
    """Write the body of ``__init__``, and the shared texts of the docstring, of a rule's class."""
    function = vars(kind)["__init__"]
    signature = Signature(function, kind)

    @functools.wraps(function)
    def init(self: AnOptimizer, *args: Any, **given: Any) -> None:
        function(self, *args, **given)  # it does nothing: Python refuses what does not fit
        values = signature.values((self, *args), given)
        own = {name: values.pop(name) for name in signature.own}
        del values["self"]
        self._setup(values.pop("params"), values.pop("lr"), values, own)

    kind.__init__ = init  # type: ignore[method-assign, assignment]  # of its signature
    kind.__doc__ = fill(kind.__doc__, OF_CLASSES, signature.defaults)
    return kind


def update_function(
    kind: type[OptimizerBase],
    by_arrays: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
) -> Callable[[Callable[Arguments, None]], Callable[Arguments, None]]:
    """Write the body, and the shared texts of the docstring, of a rule's step on given arrays.

    Parameters
    ----------
    kind : type
        The rule's class: options that the function does not take are as they are there.
    by_arrays : callable, optional
        ``by_arrays(values) -> dict``: options that follow from which arrays are given, from all
        arguments by name. It may refuse some.
    """
    rule, usual = kind.rule, Signature(inspect.unwrap(kind.__init__), kind).own

    def wrap(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
        signature, title = Signature(function, kind), function.__name__
        counts = "t" in signature.required

        @functools.wraps(function)
        def call(*args: Arguments.args, **given: Arguments.kwargs) -> None:
            function(*args, **given)  # it does nothing: Python refuses what does not fit
            values = signature.values(args, given)
            decided = by_arrays(values) if by_arrays is not None else {}
            pop = values.pop
            state = {name: pop(name) for name in rule.state}
            own = {**usual, **{name: pop(name) for name in signature.own}, **decided}
            p, g, t, lr, out = pop("p"), pop("g"), pop("t", None), pop("lr"), pop("out")
            if t is None and not counts:
                t = 1
            update(rule, title, p, g, state, t, lr, out, values, own)

        call.__doc__ = fill(function.__doc__, OF_FUNCTIONS, signature.defaults)
        return call

    return wrap

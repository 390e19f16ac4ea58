"""The functional API: one step of a rule on arrays that the caller owns, without an object.

A call finds the options of an earlier one by what identifies them, and then steps at once: the
arrays alone are checked anew, in compiled code. What is new or unusual goes the long way, which
checks everything.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from numadam._arrays.interop import as_views
from numadam._backend import Again, FunctionalStep
from numadam._core import options as op
from numadam._core.hyper import LR
from numadam._core.rule import RuleSpec, named
from numadam._optimizer.base import backend_for
from numadam._settings.bounds import OPEN, scalar_bounds
from numadam._settings.settings import Settings

#: Options, and products over the steps, of so many latest kinds of calls.
_REMEMBERED = 256
#: In place of an lr that was not given: a preset may have one of its own.
USUAL_LR: Any = object()
#: Steps from here on are not exact in float64.
_LAST, _INF = 2**53, math.inf

#: ``sort(given)``: lr, the rule's options and the shared ones.
Sort = Callable[[dict[str, Any]], tuple[Any, dict[str, Any], dict[str, Any]]]
#: Name, value and type of options.
Exact = tuple[tuple[str, Any, Any], ...]
#: ``by_arrays(arguments, options)``, see `update_function`.
ByArrays = Callable[[dict[str, Any], dict[str, Any]], None]


def _forget_oldest(memory: dict[Any, Any]) -> None:
    if len(memory) > _REMEMBERED:
        for old in list(memory)[: _REMEMBERED // 4]:  # many at a time: a list takes 2 us
            memory.pop(old, None)


def _make_settings(
    rule: RuleSpec, title: str, dtype: np.dtype[Any], shared: dict[str, Any], own: dict[str, Any]
) -> Settings:
    if shared.get("comm") is not None:
        raise TypeError(
            f"comm: {title} steps the arrays of this process alone. Make an optimiser, "
            "such as na.Adam(params, comm=comm)."
        )
    for name, value in (*shared.items(), *own.items()):
        without = name in op.DEFAULTS and name not in op.OF_UPDATES
        if without or (name in own and name in shared):
            raise TypeError(
                f"{title}: {name} needs arrays or counters that an optimiser object owns."
            )
        if callable(value):
            raise TypeError(f"{name}: expected the number of this step, got a callable.")
    options = op.check(rule, title, shared, own)
    like = np.empty(0, dtype)
    pairs = [OPEN]
    if options["bounds"] is not None:
        pairs = [scalar_bounds(options["bounds"], like, title)]
    settings = Settings(rule, options, [like], ["p"], [{}], pairs)
    # bounds have a row of their own; there is one array, and one row is enough
    (row,) = settings.group_of_leaf
    settings.control, settings.group_of_leaf = settings.control[row : row + 1].copy(), [0]
    return settings


#: Running products after so many steps, of the latest options.
_memory: dict[Any, tuple[int, tuple[float, ...]]] = {}


def _products(settings: Settings, t: int) -> tuple[float, ...]:
    """The running products before step t, remembered from the call before."""
    plan = settings.plan
    if not plan.products:
        return ()
    row, key = settings.control[0, op.RULE :], (plan, settings.control.tobytes())
    done, q = _memory.pop(key, (0, (1.0,) * len(plan.products)))
    if done > t - 1:
        done, q = 0, (1.0,) * len(plan.products)
    if done < t - 1:
        kind, c = named("Products", plan.products), plan.rule.hyper_type(*row)
        for step in range(done + 1, t):
            q = plan.advance(c, kind(*q), float(step))
    _memory[key] = t - 1, tuple(q)
    _forget_oldest(_memory)
    return q


def _exact(given: Mapping[str, Any]) -> Exact:
    """Options for which equality is not enough.

    1, 1.0 and True are equal, but not the same option: these have to be of the same type. A tuple
    has to be the same object.
    """
    exact = []
    for name, value in given.items():
        clear = value is None or isinstance(value, str)
        if not clear and not (isinstance(value, float) and not value.is_integer()):
            exact.append((name, value, None if type(value) is tuple else type(value)))
    return tuple(exact)


def _number_of_step(t: Any) -> int:
    try:
        number = operator.index(t)
    except TypeError:
        raise TypeError(f"t: expected an int, got {type(t).__name__} ({t!r}).") from None
    if not 1 <= number < _LAST:
        raise ValueError(f"t: expected the number of this step, 1 at the first, got {t!r}.")
    return number


class UpdateFunction:
    """The step of a rule on arrays that the caller owns.

    `title` is the name of the public function, and `counts` says whether every call needs t.
    ``by_arrays(arguments, options)`` is described in `update_function`.
    """

    def __init__(
        self, rule: RuleSpec, title: str, sort: Sort, by_arrays: ByArrays | None, counts: bool
    ) -> None:
        self._rule, self._title, self._sort, self._counts = rule, title, sort, counts
        self._by_arrays = by_arrays
        #: how to step again, the lr where none is given, and what to compare besides the key
        self._known: dict[Any, tuple[Again, float, Exact]] = {}
        self._settings: dict[Any, tuple[Settings, float]] = {}

    def step(self, arrays: Any, absent: Any, t: Any, lr: Any, given: Any) -> None:
        """Take one step.

        Parameters
        ----------
        arrays : tuple of arrays
            By slot, from `P` to `OUT`; None where there is none. In place of absent parameters the
            gradient: with `out` they are only read, and without decay and bounds not even that.
        absent : tuple of bool
            Whether p, each optional state array, t and out are None, as far as the rule has them.
        t, lr
            Number of this step, None where the rule needs none; lr, or `USUAL_LR`.
        given : dict
            All other keywords.
        """
        like = arrays[0]
        try:
            key: Any = like.shape, like.strides, absent, tuple(given.items()) if given else ()
            known = self._known.get(key)
        except (AttributeError, TypeError):  # an array of another library, a list as an option
            key = known = None
        if known is None:
            return self._step(key, arrays, absent, t, lr, given)
        again, rate, exact = known
        for name, value, kind in exact:
            if given[name] is not value and type(given[name]) is not kind:
                return self._step(key, arrays, absent, t, lr, given)
        if lr is not USUAL_LR:
            rate = lr if type(lr) is float and 0.0 <= lr < _INF else LR.check(lr)
        number = t if type(t) is int and 0 < t < _LAST else self._number(t)
        if not again(arrays, number, rate):
            self._step(key, arrays, absent, t, lr, given)
        return None

    def _number(self, t: Any) -> int:
        """The number of this step, checked; 1 where a rule that can do without has none."""
        return 1 if t is None and not self._counts else _number_of_step(t)

    def _step(self, key: Any, arrays: Any, absent: Any, t: Any, lr: Any, given: Any) -> None:
        """Check everything, step, and remember the way for the next call under `key`."""
        like, *others = arrays
        without, out = absent[0], arrays[-1]
        name = "g" if without and out is not None else "p"
        if without and out is None:
            like = None  # which is refused
        backend = backend_for([like], [name], written=out is None)
        if out is not None:
            (like,) = as_views([like], backend.home, lambda k: name)
        backend.check_params([like], [name])
        settings, usual = self._settings_of(like.dtype, arrays, absent, t, given)
        if without:
            _refuse_without_parameters(settings)
        rate, number = usual if lr is USUAL_LR else LR.check(lr), self._number(t)
        products = _products(settings, number)
        used = like, *others
        again = backend.update(FunctionalStep(settings, products, used, name, number, rate))
        # an option that may change by itself is checked at every call
        if again is not None and key is not None and op.freeze(given) is not None:
            self._known[key] = again, usual, _exact(given)
            _forget_oldest(self._known)

    def _settings_of(
        self, dtype: np.dtype[Any], arrays: Any, absent: Any, t: Any, given: dict[str, Any]
    ) -> tuple[Settings, float]:
        """The checked options and the usual lr; plain ones are remembered: checking takes 60 us."""
        frozen = op.freeze(given)
        key = dtype, absent, frozen
        known = None if frozen is None else self._settings.get(key)
        if known is None:
            usual, own, shared = self._sort(given)
            if self._by_arrays is not None:
                state = dict(zip(self._rule.state, arrays[2:-1], strict=False))
                self._by_arrays({**state, "t": t}, own)
            known = _make_settings(self._rule, self._title, dtype, shared, own), LR.check(usual)
            if frozen is not None:
                self._settings[key] = known
                _forget_oldest(self._settings)
        return known


def _refuse_without_parameters(settings: Settings) -> None:
    """Refuse options that need the parameters."""
    plan, options = settings.plan, settings.options
    for used, option in ((plan.decay, "weight_decay"), (plan.bounds, "bounds")):
        if used:
            raise ValueError(
                f"p: {option}={options[option]!r} needs the parameters; pass them, or leave it out."
            )

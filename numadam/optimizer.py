"""What all optimisers share: parameters, hyperparameters, state, and `step`."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, overload

from numadam import forks
from numadam.dispatch import engine_for
from numadam.rules.base import LR, RuleSpec
from numadam.state import State
from numadam.tree import Tree

Schedule = Callable[[int], float]


class hyper:
    """A float hyperparameter of the control block, checked when set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> hyper: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type) -> float: ...
    def __get__(self, instance: Optimizer | None, owner: type) -> hyper | float:
        if instance is None:
            return self
        return float(instance._engine.control[instance.rule.index(self._name)])

    def __set__(self, instance: Optimizer, value: float) -> None:
        rule, before = instance.rule, instance._options
        options = rule.check({**before, self._name: value})
        if rule.present(options) != rule.present(before):
            raise ValueError(
                f"{self._name}: {value!r} needs other state arrays than {before[self._name]!r}: "
                "make a new optimiser."
            )
        instance._engine.control[rule.index(self._name)] = options[self._name]


class fixed:
    """An option that is set when the optimiser is made, and read only after."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance._options[self._name]

    def __set__(self, instance: Any, value: object) -> None:
        raise AttributeError(f"{self._name}: cannot be changed: make a new optimiser instead.")


class Optimizer:
    """Base of all optimisers. Use a subclass: `Adam`, `RMSprop`, `SGD`.

    An optimiser keeps references to the parameter arrays and changes them in place.
    """

    rule: ClassVar[RuleSpec]
    _lock: Any

    def _setup(self, params: Any, lr: float | Schedule, **options: Any) -> None:
        forks.give_lock(self)
        self._fixed = self.rule.check(options)
        self._lr = lr if callable(lr) else LR.check(lr)
        self._params = params
        self._tree = Tree(params)
        leaves, names = self._tree.flatten(params, "params"), self._tree.names("params")
        self._engine = engine_for(leaves, names)(self.rule, self._fixed, leaves, names)
        self._grads: Any = None
        self._grad_leaves: list[Any] = []

    @property
    def _options(self) -> dict[str, Any]:
        """All options as they are now: hyperparameters live in the control block alone."""
        control = self._engine.control
        now = {hyper.name: float(control[k]) for k, hyper in enumerate(self.rule.hypers)}
        return {**self._fixed, **now}

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse a name that this class does not know: it would be ignored."""
        known = name.startswith("_") or hasattr(type(self), name)
        if not known and type(self).__module__.startswith("numadam."):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to set.")
        super().__setattr__(name, value)

    @property
    def params(self) -> Any:
        """The parameters, as they were passed: the arrays themselves."""
        return self._params

    @property
    def t(self) -> int:
        """Steps taken so far."""
        return int(self._engine.t)

    @property
    def lr(self) -> float | Schedule:
        """The learning rate: a float, or a callable of the steps already taken."""
        return self._lr

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        self._lr = value if callable(value) else LR.check(value)

    def step(
        self,
        grads: Any = None,
        *,
        params: Any = None,
        lr: float | None = None,
        out: Any = None,
    ) -> None:
        """Take one step: update parameters and state in place.

        Everything is checked first, then one compiled call does the whole step and advances t
        last. An exception or Ctrl-C comes before the step or after it, never between.

        Parameters
        ----------
        grads : array or nesting of arrays, optional
            Gradients in the structure, shapes and dtype of the parameters; not modified. Without
            it, `grads` of the optimiser is taken.
        params : array or nesting of arrays, optional
            Parameters to update in this call instead of the optimiser's own: same structure,
            shapes and dtype. Nothing of them is kept.
        lr : float, optional
            Learning rate of this call only.
        out : array or nesting of arrays, optional
            Gets the direction instead: the parameters would become ``p + out``. State and t
            move, the parameters stay.

        Raises
        ------
        TypeError, ValueError
            Before anything is written: the message names the array, says what it is and what to
            do.

        Notes
        -----
        At every step, of every array: that it is an array of the right type, dtype and byte
        order, that what is written is writable, shape, memory layout, and that nothing that is
        written overlaps anything else. Nothing seen at an earlier step is trusted: an array
        changed behind the optimiser's back (``setflags``, ``resize``, ``a.shape = ...``) is
        checked as it is now, and an entry of a container that was replaced is refused. Only the
        structure, shapes and dtype of the parameters are fixed when the optimiser is made, and
        the work arrays through which strided arrays go are kept.

        Steps of one optimiser from several threads wait for each other.
        """
        with self._lock:
            if lr is not None:
                rate = LR.check(lr)
            elif callable(self._lr):
                rate = LR.check(self._lr(self.t))
            else:
                rate = self._lr
            tree = self._tree
            if grads is None:
                leaves = self._own_gradients()
            else:
                leaves = (grads,) if tree.is_leaf else tree.flatten(grads, "grads")
            if params is None and not tree.is_leaf:
                self._refuse_replaced(self._params, self._engine.params, "params")
            if params is None and out is None:
                self._engine.step(leaves, rate)
            else:
                self._engine.step(
                    leaves,
                    rate,
                    None if params is None else tree.flatten(params, "params"),
                    None if out is None else tree.flatten(out, "out"),
                )

    @property
    def grads(self) -> Any:
        """Gradient buffers that the optimiser owns, in the structure of the parameters.

        Write into them (``opt.grads["w"][...] = g``) and call `step` without an argument: one
        flat buffer holds them all. They begin as zeros. Assigning to `grads` copies values in.
        """
        with self._lock:
            if self._grads is None:
                leaves = self._engine.gradients()
                self._grad_leaves, self._grads = leaves, self._tree.unflatten(leaves)
            return self._grads

    @grads.setter
    def grads(self, value: Any) -> None:
        leaves = self._engine.check_arrays("grads", self._tree.flatten(value, "grads"))
        staged = [leaf.copy() for leaf in leaves]  # an entry may be a view of another's buffer
        with self._lock:
            self._refuse_replaced(self.grads, self._grad_leaves, "opt.grads")
            for leaf, buffer in zip(staged, self._grad_leaves, strict=True):
                buffer[...] = leaf

    def _own_gradients(self) -> Sequence[Any]:
        if self._grads is None:
            raise ValueError(
                "grads: none were passed, and opt.grads was never filled. Call opt.step(grads), "
                "or write into opt.grads first."
            )
        self._refuse_replaced(self._grads, self._grad_leaves, "opt.grads")
        return self._grad_leaves

    def _refuse_replaced(self, tree: Any, leaves: Sequence[Any], name: str) -> None:
        """Refuse a container in which another object took the place of an array."""
        now = self._tree.flatten(tree, name)
        if not all(map(operator.is_, now, leaves)):
            same = list(map(operator.is_, now, leaves))
            leaf = self._tree.names(name)[same.index(False)]
            raise ValueError(
                f"{leaf}: was replaced by another object, but the optimiser holds the array that "
                f"was there. Write into that: {leaf}[...] = x."
            )

    @property
    def state(self) -> State:
        """The state arrays and t: read as views, copied in on assignment.

        ``opt.state["m"]`` is the first moment in the structure of the parameters;
        ``opt.state = saved`` checks all of `saved` and then takes it over whole.
        """
        return State(self)

    @state.setter
    def state(self, saved: Mapping[str, Any]) -> None:
        State(self).update(saved)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            state = {
                name: [view.copy() for view in views] for name, views in self._engine.state.items()
            }
            return {
                "params": self._params,
                "lr": self._lr,
                "options": self._options,
                "t": self.t,
                "state": state,
            }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        self._setup(saved["params"], saved["lr"], **saved["options"])
        self._engine.load(saved["t"], saved["state"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        """Copy parameters, state and t of one moment, whatever other threads do."""
        with self._lock:
            twin = type(self).__new__(type(self))
            memo[id(self)] = twin
            twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self._options.items())
        return f"{type(self).__name__}(lr={self._lr!r}, {options}, t={self.t})"

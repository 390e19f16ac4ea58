"""Base of all optimisers: back end, options as attributes, state, gradients, copies; no step."""

from __future__ import annotations

import copy
import functools
import inspect
import numbers
import operator
from abc import ABCMeta
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast, overload

from numadam._arrays import checks as ar
from numadam._arrays import formatting
from numadam._arrays.interop import home, is_array
from numadam._arrays.tree import Tree, refuse_replaced
from numadam._backend import Backend
from numadam._core import options as op
from numadam._core import synonyms
from numadam._core.hyper import LR, Array, Schedule
from numadam._core.parts import Parts, parts_of
from numadam._core.rule import RuleSpec
from numadam._jit import process
from numadam._optimizer.state import State, check_steps
from numadam._settings import settings as st
from numadam._settings.bounds import leaf_bounds

if TYPE_CHECKING:
    from numadam._mpi import Construction

Class = TypeVar("Class", bound=type)
Kind = TypeVar("Kind", bound="OptimizerBase")

# --- the back end ---------------------------------------------------------------------------------

#: Advice for torch's list of groups, {"params": [...], "lr": ...}, each of which looks nested.
_OF_TORCH = (
    " Groups of torch are written otherwise: pass all arrays in one dict, and options of some of "
    "them as groups={'bias': {'weight_decay': 0.0}}."
)


def backend_for(arrays: Sequence[Any], names: Sequence[str], written: bool = True) -> type[Backend]:
    """Return the back end for these arrays: NumPy's on the CPU, CuPy's on their GPU.

    Arrays of other libraries that are not to be `written` go where their memory is (`interop`).
    """
    homes = list(map(home, arrays))
    for array, name, library in zip(arrays, names, homes, strict=True):
        if not library or (written and not is_array(array)):
            of_torch = _OF_TORCH if "['params']" in "".join(names) else ""
            raise TypeError(f"{name}: {ar.describe(array)}{of_torch}")
        if library != homes[0]:
            raise TypeError(
                f"{name}: is a {library} array, but {names[0]} is a {homes[0]} array. One "
                "optimiser works on one device: make a second one for the other arrays."
            )
    return _backend(homes[0] if homes else "NumPy")


@functools.cache
def _backend(library: str) -> type[Backend]:
    with process.compile_lock():  # these import Numba
        if library == "CuPy":
            from numadam._cuda.backend import CudaBackend

            return CudaBackend
        from numadam._cpu.backend import CpuBackend

        return CpuBackend


# --- options -------------------------------------------------------------------------------------


class option:
    """An option of an optimiser."""

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: OptimizerBase, owner: type) -> Any: ...
    def __get__(self, instance: OptimizerBase | None, owner: type) -> Any:
        if instance is None:
            return self
        value = parts_of(instance).settings.options[self._name]
        return value if type(value) is float else op.read_only(value)


class setting(option):
    """An option that may be set at any time, also where that takes another loop."""

    def __set__(self, instance: Any, value: Any) -> None:
        instance._set_option(self._name, value)  # noqa: SLF001  # an optimiser


class hyper(setting):
    """A float hyperparameter, or a callable of the steps taken; checked when set."""

    def __set__(self, instance: Any, value: float | Schedule | None) -> None:
        super().__set__(instance, value)


class fixed(option):
    """An option that is set when the optimiser is made, and read only after."""

    def __set__(self, instance: Any, value: object) -> None:
        raise AttributeError(f"{self._name}: cannot be changed: make a new optimiser instead.")


def with_options(kind: Class, names: Iterable[str], changeable: Container[str]) -> Class:
    """Give a class its options as attributes, with the texts of its docstring, for `help`."""
    texts = formatting.parameters(kind.__doc__)
    for name in names:
        settable = setting if name in op.SETTABLE else fixed
        attribute: option = hyper(name) if name in changeable else settable(name)
        of_base = getattr(kind, name, attribute).__doc__
        attribute.__doc__ = "\n".join(texts[name]) if name in texts else of_base
        setattr(kind, name, attribute)
    return kind


# --- attributes that optimisers of other libraries have ------------------------------------------


class _Foreign:
    """An attribute that is missing, and says what it is called here.

    Not `__getattr__`: with it every attribute is found more slowly, which a step feels (0.1 us).
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        raise AttributeError(missing(owner, self._name))


class OptimizerType(ABCMeta):
    """Type of optimiser classes: what completion asks for, `dir` and signature; may be abstract."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of ``__init__``, with the options of every rule by name."""
        if "__signature__" in vars(cls):  # a user's own
            return cast(inspect.Signature, vars(cls)["__signature__"])
        if cls.__init__ is object.__init__:  # type: ignore[misc]  # of a class without rule
            return inspect.Signature()
        defaults = {**op.DEFAULTS, "decoupled": cls.rule.decoupled}  # type: ignore[attr-defined]  # of all with rule
        return op.named_options(cls.__init__.__get__(cls), defaults)  # type: ignore[misc]  # of a class

    def __dir__(cls) -> list[str]:
        """Names that `help` shows: the docstring of a rule lists options and inherited members.

        `dir` of an optimiser and of `Optimizer` has all names.
        """
        names = own_names(cls, super().__dir__())
        if not hasattr(cls, "rule"):
            return names
        of_users = [base for base in cls.__mro__ if not base.__module__.startswith("numadam.")]
        added = {name for base in of_users[:-1] for name in vars(base) if name != "rule"}
        shown = {"__doc__", "__init__", "__module__", *added}
        return [n for n in names if n in shown and not isinstance(getattr(cls, n), option)]


def own_names(kind: type, names: Iterable[str]) -> list[str]:
    """Names without the foreign ones."""
    return [n for n in names if not isinstance(inspect.getattr_static(kind, n, None), _Foreign)]


def missing(kind: type, name: str, to: str = "") -> str:
    """Error text for an attribute that a class does not have."""
    hint = synonyms.attribute_hint(name, own_names(kind, type.__dir__(kind)))
    return f"{kind.__name__} has no attribute {name!r}{to}. {hint}".rstrip()


# --- defaults of an optimiser's options ----------------------------------------------------------


def default_options(kind: Any) -> dict[str, Any]:
    """The options of a class of optimisers where the user sets none."""
    rule: RuleSpec = kind.rule
    return {**op.DEFAULTS, "decoupled": rule.decoupled, "lr": rule.lr, **rule.defaults}


# --- base of all optimisers ----------------------------------------------------------------------

#: Entries of a pickle with arrays of the user's, which may be pickled, or copied, beside it.
_WITH_ARRAYS = ("params", "lr", "options")


class OptimizerBase(metaclass=OptimizerType):
    """Everything of an optimiser but its steps."""

    rule: ClassVar[RuleSpec]
    """The rule: its formula, its state arrays, its hyperparameters."""
    _lock: Any
    _params: Any
    _tree: Tree
    _settings: st.Settings
    _backend: Backend
    _grads: Any
    _grad_leaves: list[Any]
    #: set by `make_optimizer`: the back end to use instead of the one for the parameters' type
    _backend_class: type[Any] | None = None

    if TYPE_CHECKING:  # `optimizer_class` writes that of each rule

        def __init__(self, params: Any, lr: Any = ..., **options: Any) -> None: ...

    def _setup(
        self, params: Any, lr: Any, shared: Mapping[str, Any], own: Mapping[str, Any]
    ) -> None:
        """Set all up, on all ranks of `comm` or on none; `own`: options of this rule alone."""
        process.give_lock(self)
        name = type(self).__name__
        if (isinstance(params, numbers.Number) or callable(params)) and not st.is_plain(lr):
            raise TypeError(
                f"params: expected arrays, got {params!r:.40}. The order is {name}(params, lr)."
            )
        with self._together(shared.get("comm"), f"making {name}") as made:
            tree, settings, leaves, names, backend = self._read(params, lr, shared, own, made)
            try:
                of_device = backend(settings, leaves, names)
            except MemoryError as error:
                each, elements = settings.plan.state_nbytes, sum(leaf.size for leaf in leaves)
                raise MemoryError(
                    f"params: {name} with these options needs {formatting.nbytes(each * elements)} "
                    f"for its state, and there is not so much memory. na.SGD(params) needs none. "
                    f"({error})"
                ) from error
        # 5 us less than through our own; vars(self).update would make each step 0.08 us slower
        put = super().__setattr__
        put("_params", params)
        put("_tree", tree)
        put("_settings", settings)
        put("_backend", of_device)
        put("_grads", None)
        put("_grad_leaves", [])

    def _together(self, comm: Any, what: str) -> AbstractContextManager[Construction | None]:
        """A block that all ranks of `comm` finish, or none; None where there are no ranks."""
        if comm is None:
            return nullcontext()
        from numadam import _mpi

        return _mpi.Construction(_mpi.ranks_of(comm), what)

    def _read(
        self,
        params: Any,
        lr: Any,
        shared: Mapping[str, Any],
        own: Mapping[str, Any],
        made: Construction | None,
    ) -> tuple[Tree, st.Settings, Sequence[Any], list[str], type[Backend]]:
        """The structure of the parameters, checked options for them, their arrays and names."""
        if made is not None:
            shared = {**shared, "comm": made.ranks}
        options, frozen = op.read(self.rule, type(self).__name__, shared, own)
        lr = LR.check_or_schedule(lr) if st.is_plain(lr) else op.own_copy(lr)
        whole = Tree(params)
        overrides = st.group_overrides(self.rule, options, lr, whole)
        tree = whole.without([of_leaf.get("frozen", False) for of_leaf in overrides])
        leaves, names = tree.flatten(params, "params"), tree.names("params")
        if whole.size and not leaves:
            raise ValueError("groups: every array is frozen, there is nothing to optimise.")
        backend: type[Backend] = self._backend_class or backend_for(leaves, names)
        backend.check_params(leaves, names)
        ar.refuse_same_memory(leaves, names)
        pairs = leaf_bounds(options["bounds"], tree, leaves, names)
        of_leaves = tree.select(overrides)
        settings = st.settings_for(self.rule, options, frozen, leaves, names, of_leaves, pairs)
        settings.set_lr(lr)
        if made is not None:
            made.join(settings, names)
        return tree, settings, leaves, names, backend

    def _set_option(self, name: str, value: Any) -> None:
        """Set an option: a number that the loop reads, or one that takes another loop.

        That is compiled here. Where anything fails, the option keeps its old value.
        """
        with self._lock:
            settings, comm = self._settings, self._settings.options["comm"]
            if (comm is None or settings.reads(name)) and settings.set(name, value):
                return
            given = {**settings.options, "lr": settings.lr, name: value}
            lr = given.pop("lr")
            with self._together(comm, f"setting {name}") as made:
                self._refuse_new_params()
                tree, changed, *_ = self._read(self._params, lr, *op.parted(given), made)
                if not settings.has_state_of(changed) or tree.paths() != self._tree.paths():
                    now = formatting.brief(settings.options.get(name, settings.lr))
                    raise ValueError(
                        f"{name}: cannot change from {now} to {formatting.brief(value)}: that "
                        "needs other state. Make a new optimiser."
                    )
                backend, writes = self._backend.with_settings(changed)
            put = functools.partial(partial, object.__setattr__, self)
            with process.defer_interrupts():  # CuPy's assignments are not in C alone
                process.at_once([*writes, put("_settings", changed), put("_backend", backend)])

    def _parts(self) -> Parts:
        return Parts(self._tree, self._settings, self._backend, self._lock)

    def __dir__(self) -> list[str]:
        """Attributes, without those that only say what they are called here."""
        return own_names(type(self), super().__dir__())

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse an attribute that the class does not have: it would be ignored."""
        known = name.startswith("_") or hasattr(type(self), name)
        if not known and type(self).__module__.startswith("numadam."):
            raise AttributeError(missing(type(self), name, " to set"))
        super().__setattr__(name, value)

    @property
    def params(self) -> Any:
        """The parameters, as they were passed: the arrays themselves."""
        return self._params

    @property
    def t(self) -> int:
        """Steps taken so far.

        May be set: bias corrections, schedules and the running products of betas that change
        continue from there. The state arrays do not change.
        """
        return self._backend.t

    @t.setter
    def t(self, steps: int) -> None:
        """Steps taken so far; schedules and bias corrections continue from an assigned number."""
        steps = check_steps("t", steps)
        with self._lock:
            self._backend.load({"t": steps, **self._settings.products_after(steps)}, {})

    @property
    def skipped(self) -> int:
        """Steps skipped by ``nonfinite="skip"`` so far."""
        return int(self._backend.counters.get("skipped", 0))

    @property
    def grad_norm(self) -> Any:
        """Euclidean norm of the gradients of the last step, before any clip; NaN before it.

        With `clip_array_norm` a list with the norm of each array. Available where the step computes
        a norm: with `clip_norm` (which may be infinite), `clip_array_norm` or a guard.
        """
        if not self._settings.plan.norm:
            raise AttributeError(
                "grad_norm: is not formed by these options; opt.clip_norm = numpy.inf asks for it."
            )
        return self._backend.grad_norm

    @property
    def source(self) -> str:
        """The loop of a step, as it is compiled: the lines that the options in use need.

        ``part`` is the loop over the elements of an array. Its scalars are computed before it, once
        a step, by ``fill``. The rule's formula follows.

        Examples
        --------
        >>> import numpy as np
        >>> import numadam as na
        >>> opt = na.SGD(np.zeros(3))
        >>> opt.clip_value = 1.0
        >>> [line.strip() for line in opt.source.splitlines() if "clip if" in line]
        ['g = clip if g > clip else g', 'g = -clip if g < -clip else g']
        """
        from numadam._core.text import source_of

        return source_of(self._settings.plan)

    @property
    def averaged(self) -> Any:
        """Running average of the parameters (option `ema`), as new arrays in their structure."""
        if "average" not in self._backend.state:
            raise AttributeError(
                "averaged: there is no average; make the optimiser with ema=0.999."
            )
        with self._lock:
            views, scale = self._backend.state["average"], 1.0
            if self._settings.options["ema_debias"]:
                if self.t == 0:  # no step yet: the average of nothing is the parameters
                    dtype = views[0].dtype
                    return self._tree.unflatten([p.astype(dtype) for p in self._backend.params])
                scale = 1.0 / (1.0 - self._settings.options["ema"] ** self.t)
            copies = [view.copy(order="K") for view in views]
            for average in copies:
                average *= average.dtype.type(scale)
            return self._tree.unflatten(copies)

    @property
    def lr(self) -> Any:
        """The learning rate: a float, a callable of the steps already taken, or per array."""
        lr = self._settings.lr
        return lr if type(lr) is float else op.read_only(lr)

    @lr.setter
    def lr(self, value: float | Schedule | Array) -> None:
        """Learning rate: a float, a callable, or per array or element as when it was made."""
        self._set_option("lr", value)

    @property
    def current_lr(self) -> Any:
        """The learning rate of the next step: `lr`, or the current value of a schedule.

        A float, or their nesting if each array has its own.
        """
        with self._lock:
            lr, tree = self._settings.lr, self._tree
            if st.is_plain(lr):
                return LR.check(lr(self.t)) if callable(lr) else lr
            rates = tree.flatten(lr, "lr")
            now = [LR.check(rate(self.t)) if callable(rate) else rate for rate in rates]
            return tree.unflatten(now, lr)

    @property
    def grads(self) -> Any:
        """Gradient buffers owned by the optimiser, in the structure of the parameters.

        Write into them (``opt.grads["w"][...] = g``) and call `step` without an argument. They
        start as zeros, in one flat buffer. Assigning to `grads` copies the values.
        """
        with self._lock:
            if self._grads is None:
                leaves = self._backend.gradients()
                self._grad_leaves, self._grads = leaves, self._tree.unflatten(leaves)
            return self._grads

    @grads.setter
    def grads(self, value: Any) -> None:
        """Gradient buffers; values that are assigned are copied into them."""
        leaves = self._backend.check_arrays("grads", self._tree.flatten(value, "grads"))
        staged = [leaf.copy() for leaf in leaves]  # an entry may be a view of another's buffer
        with self._lock:
            refuse_replaced(self._tree, self.grads, self._grad_leaves, "opt.grads")
            pairs = zip(self._grad_leaves, staged, strict=True)
            with process.defer_interrupts():  # CuPy's assignments are not in C alone
                process.at_once([partial(operator.setitem, to, ..., leaf) for to, leaf in pairs])

    def _refuse_new_params(self) -> None:
        """Refuse a container of the parameters in which an array was replaced."""
        if not self._tree.is_leaf:
            refuse_replaced(self._tree, self._params, self._backend.params, "params")

    @property
    def state(self) -> State:
        """State arrays and t: reading returns views, assignment copies.

        ``opt.state["m"]`` is the first moment in the structure of the parameters;
        ``opt.state = saved`` checks all of `saved` and then copies it, and
        ``saved = opt.state.copy()`` has copies of all at the same step. Without ``.copy()`` it is
        the state itself, which goes on changing: to assign that is an error. So are negative
        squares; NaN and infinite numbers are accepted, so that a failed run can be examined.
        """
        return State(self)

    @state.setter
    def state(self, saved: Mapping[str, Any]) -> None:
        """State arrays and t; what is assigned is checked, then copied."""
        self.state.update(saved)

    def __getstate__(self) -> dict[str, Any]:
        """All of one moment.

        Pickle reads `params` themselves later, when they may have taken further steps, or has read
        them before. So there are copies of their values, which a load writes into them: an array
        that is pickled beside the optimiser is afterwards still the one that it changes.
        """
        with self._lock:
            backend, settings = self._backend, self._settings
            state = backend.state.items()
            return {
                "params": self._params,
                "formula": self.rule.digest,
                "values": [value.copy() for value in backend.params],
                "lr": settings.lr,
                "options": dict(settings.options),
                "counters": {name: value.copy() for name, value in backend.counters.items()},
                "state": {name: [view.copy() for view in views] for name, views in state},
            }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        if saved.get("formula", "") != self.rule.digest:
            raise ValueError(
                f"{type(self).__name__}: was pickled with another formula, or by another version "
                "of Python. Load it with the formula that it was pickled with."
            )
        self._setup(saved["params"], saved["lr"], *op.parted(saved["options"]))
        self._backend.load(saved["counters"], saved["state"], saved["values"])

    def __copy__(self) -> Self:
        """An optimiser of the same parameters, with a state of its own."""
        clone = type(self).__new__(type(self))
        with self._lock:
            clone.__setstate__(self.__getstate__())
        return clone

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy parameters, state and t as of one moment, whatever other threads do."""
        memo[id(self)] = clone = type(self).__new__(type(self))
        with self._lock:
            saved = self.__getstate__()
            saved |= {name: copy.deepcopy(saved[name], memo) for name in _WITH_ARRAYS}
            clone.__setstate__(saved)
        return clone

    def _changed_options(self) -> dict[str, str]:
        """The learning rate and the options that differ from their defaults, as short texts."""
        defaults, changed = default_options(type(self)), {"lr": formatting.brief(self.lr)}
        for name, value in self._settings.options.items():
            usual = defaults.get(name)
            # an option that holds arrays has no truth value of its own
            plain = isinstance(value, (float, int, str)) and isinstance(usual, (float, int, str))
            if not (value is usual or (plain and value == usual)):
                changed[name] = formatting.brief(value)
        return changed

    def __repr__(self) -> str:
        """The rule, lr, the options that differ from their defaults, t, and the parameters.

        Examples
        --------
        >>> import numpy as np
        >>> import numadam as na
        >>> na.Adam({"w": np.zeros((4, 3)), "b": np.zeros(3)}, clip_norm=1.0)
        Adam(lr=0.001, clip_norm=1.0, t=0; 2 arrays, 15 float64, cpu)
        """
        options = ", ".join(f"{name}={value}" for name, value in self._changed_options().items())
        arrays = formatting.outline(self._backend.params)
        return f"{type(self).__name__}({options}, t={self.t}; {arrays})"

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        state = [leaf for leaves in self._backend.state.values() for leaf in leaves]
        names = ", ".join(self._backend.state) or "none"
        size = formatting.nbytes(sum(leaf.nbytes for leaf in state))
        rows = [
            *self._changed_options().items(),
            ("t", f"{self.t:,}"),
            ("params", formatting.outline(self._backend.params)),
            ("state", f"{names} ({size})"),
        ]
        return formatting.table(type(self).__name__, rows)


for _name in synonyms.FOREIGN_ATTRIBUTES:
    setattr(OptimizerBase, _name, _Foreign(_name))


def make_optimizer(
    kind: type[Kind], params: Any, lr: Any, *, backend: type[Any], **options: Any
) -> Kind:
    """An optimiser of class `kind` on a given back end, whatever the type of `params`.

    `backend` needs only those methods of `Backend` that its user calls.
    """
    optimizer = kind.__new__(kind)
    optimizer._backend_class = backend  # noqa: SLF001  # this module's own class
    kind.__init__(optimizer, params, lr, **options)
    return optimizer

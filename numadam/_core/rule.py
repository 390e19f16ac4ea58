"""Update rules: a formula on scalars, the names of its state, the scalars of one step."""

from __future__ import annotations

import builtins
import sys
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import FunctionType
from typing import Any, TypeVar

from numadam._core.hyper import NUMBER, Hyper, at_start
from numadam._jit.process import cached_property

Value = TypeVar("Value")
Options = Mapping[str, Any]
ByOptions = Callable[[Options], Value]
#: Numbers by name, as the functions of a rule return them.
Scalars = dict[str, float]


@cache
def named(name: str, fields: tuple[str, ...]) -> Any:
    """Class of named tuples; one for each name and fields, so that compiled code is shared."""
    return namedtuple(name, fields)


def _all_of_them(options: Options) -> tuple[str, ...]:
    raise NotImplementedError("stands for the state of the rule until that is known")


@dataclass(frozen=True, eq=False)
class RuleSpec:
    """One update rule.

    `present`, `variant`, `refuse`, `initial` and `modulus` are functions of the options.

    Attributes
    ----------
    name : str
        Name of the compiled formula, e.g. ``"adam"``. Rules that differ in defaults alone share it,
        and so the compiled loop.
    state : tuple of str
        Names of the state arrays, at most three.
    hypers : tuple of Hyper
        Float hyperparameters, which the control block holds.
    lr : float
        Default of the learning rate.
    defaults : mapping of str to object
        Defaults of the options that the class names: those of the rule, and shared ones that are
        others than everywhere.
    kinds : mapping of str to str
        Types of those that are neither a hyperparameter nor True or False, see `check_kind`.
    formula : callable
        ``formula(**variant) -> element``. For state ``("m", "v")`` it is
        ``element(p, g, m, v, h) -> (step, m, v)``, on scalars of the array's dtype: the loop then
        writes ``p - step``. With a parameter ``gg`` after g it gets the square of g (of its
        modulus, for complex numbers taken whole). An absent state array is ``None`` there. `h`
        are the scalars by name, with ``h.tiny`` (below it a first moment becomes 0) and
        ``h.zero``. It is compiled for CPU and CUDA: no Python object, and no literal number,
        which would widen float32 arithmetic to float64.
    scalars : callable
        ``scalars(c, q, lr, t) -> dict(...)``: what all elements share at step t (1 at the first),
        computed in float64 from the hyperparameters `c` and the products over the steps 1 to t
        `q`, both by name. The loop rounds them once to the dtype. Where it is compiled, `dict` is
        a class of named tuples: each return calls it with the same names.
    presets : mapping of str to mapping
        By library the keywords that ``like=`` gives; a library without the rule is not there.
    scalars_like, advance_like : mapping of str to callable
        For presets whose library rounds on its way, ``make(is_float32)`` of other `scalars`, and
        another `advance`.
    present : tuple of str
        State arrays in use; all of them unless said otherwise.
    variant : dict
        Keywords of `formula`: options that change the compiled code.
    control : mapping of str to callable
        Further entries of `c`, each a function of the options: switches that are host scalars
        and so cost no second kernel.
    refuse : str
        What is wrong with these options together, or "".
    decoupled : bool
        Whether `weight_decay` shrinks the parameters (True) or is added to the gradient, unless
        the user says.
    powers : tuple of str
        Hyperparameters whose product over the steps `scalars` needs: ``("beta1",)`` gives it
        ``q.beta1_product``. That is ``beta1**t``, computed from t, unless one of them changes from
        step to step: then all of them are carried from step to step and saved with the state.
    advance : callable
        ``advance(c, q, t) -> dict(...)``: products of other factors (of a momentum that changes,
        say) after step t from those before it, with `dict` as in `scalars`. They are always
        carried.
    nonnegative : tuple of str
        State arrays that hold sums or maxima of squares or moduli; below 0 their root is NaN.
    initial : dict
        State arrays that do not begin as zeros, and their value.
    modulus : tuple of str or None
        State arrays that hold a square and are real where a complex number is taken whole; None
        where the formula uses the gradient otherwise, so that it cannot be taken whole.
    lasting : tuple of str
        State arrays that never decay: denormal numbers stay in them.
    squared : bool
        Whether the formula squares gradients though it has no state array v.
    digest : str
        Of all functions of the rule and what they read, where they are not numadam's own: its
        loops are known by it.
    scalar_names : tuple of str
        Names of what `scalars` returns; found by a call where they are not given.
    """

    name: str
    state: tuple[str, ...]
    hypers: tuple[Hyper, ...]
    formula: Callable[..., Callable[..., Any]]
    scalars: Callable[..., Any]
    defaults: Mapping[str, Any]
    lr: float = 1e-3
    kinds: Mapping[str, str] = field(default_factory=dict)
    present: ByOptions[tuple[str, ...]] = _all_of_them
    variant: ByOptions[dict[str, bool]] = lambda options: {}
    control: Mapping[str, Callable[[Options], float]] = field(default_factory=dict)
    refuse: ByOptions[str] = lambda options: ""
    decoupled: bool = False
    powers: tuple[str, ...] = ()
    advance: Callable[..., Any] | None = None
    nonnegative: tuple[str, ...] = ()
    initial: ByOptions[dict[str, float]] = lambda options: {}
    modulus: ByOptions[tuple[str, ...] | None] = lambda options: None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scalars_like: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    advance_like: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    lasting: tuple[str, ...] = ()
    squared: bool = False
    digest: str = ""
    scalar_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.present is _all_of_them:
            object.__setattr__(self, "present", lambda options: self.state)

    @cached_property
    def key(self) -> str:
        """First word in the names of its compiled loops; another formula has another one."""
        return f"own-{self.name}-{self.digest[:32]}" if self.digest else self.name

    @cached_property
    def all_kinds(self) -> dict[str, str]:
        """The types of the options in `defaults`, as signatures have them."""
        usual = {
            name: "bool" if isinstance(value, bool) else NUMBER
            for name, value in self.defaults.items()
        }
        return {**usual, **self.kinds}

    @property
    def written_formula(self) -> dict[str, str]:
        """Entry of a checkpoint by which a user's formula is known; its bytecode is Python's."""
        python = ".".join(map(str, sys.version_info[:2]))
        return {"formula": f"{self.digest[:32]} (Python {python})"} if self.digest else {}

    def control_values(self, options: Options) -> tuple[float, ...]:
        """The rule's part of a row of the control block, a schedule as its value at the start."""
        hypers = (at_start(hyper, options[hyper.name]) for hyper in self.hypers)
        switches = (float(entry(options)) for entry in self.control.values())
        return (*hypers, *switches)

    def products(self, options: Options) -> tuple[str, ...]:
        """Products over the steps that are carried from step to step: the first of `q`."""
        own = self.own_products(options["like"])
        changing = any(callable(options[name]) for name in self.powers)
        return self._products_after(own) if changing else own

    def differs_like(self, like: str | None) -> bool:
        """Whether a preset computes the scalars in a way of its own."""
        return like in self.scalars_like or like in self.advance_like

    def own_products(self, like: str | None) -> tuple[str, ...]:
        """Products that `advance` forms, in a preset or without one."""
        advance = self.advance_like.get(like or "", self.advance)
        return () if advance is None else _names_of(advance, 1.0)

    def compiled_scalars(self, like: str, is_float32: bool) -> Any:
        """`scalars`, in a preset or without one, with `dict` as its class."""
        make = self.scalars_like.get(like)
        function = self.scalars if make is None else make(is_float32)
        return with_class(function, named("Scalars", self._scalar_names))

    def compiled_advance(self, like: str) -> Any:
        """`advance`, in a preset or without one, with `dict` as its class."""
        advance = self.advance_like.get(like, self.advance)
        return with_class(advance, named("Products", self.own_products(like)))

    def _products_after(self, own: tuple[str, ...]) -> tuple[str, ...]:
        powers = (f"{name}_product" for name in self.powers)
        return (*own, *(name for name in powers if name not in own))

    @property
    def squares(self) -> bool:
        """Whether the formula squares gradients: for `v`, as all literature names their mean."""
        return self.squared or "v" in self.state

    @property
    def needs_t(self) -> bool:
        """Whether each step has to know its number."""
        return bool(self.powers or self.advance)

    @property
    def width(self) -> int:
        """Length of the rule's part of a row of the control block."""
        return len(self.hypers) + len(self.control)

    @cached_property
    def hyper_type(self) -> Any:
        """Class of `c`: hyperparameters, then the entries of `control`, as in the control block."""
        return named("Hypers", (*(hyper.name for hyper in self.hypers), *self.control))

    @cached_property
    def product_type(self) -> Any:
        """Class of `q`: all products of the rule; None where it has none."""
        fields = self._products_after(self.own_products(None))
        return named("Products", fields) if fields else None

    @cached_property
    def scalar_type(self) -> Any:
        """Class of `h`: the scalars that the rule computes, and those of every rule."""
        return named("Scalars", (*self._scalar_names, *OF_EVERY_RULE))

    @cached_property
    def _scalar_names(self) -> tuple[str, ...]:
        return self.scalar_names or _names_of(self.scalars, 0.5, 1.0)


#: Scalars that every rule has.
OF_EVERY_RULE = ("tiny", "zero")


class _Halves:
    """Stands for `c` and `q` in a call that is made for the names of its result."""

    def __getattr__(self, name: str) -> float:
        return 0.5


@cache
def _names_of(function: Callable[..., Scalars], *numbers: float) -> tuple[str, ...]:
    """Names in the dictionary that a function of a rule returns."""
    return tuple(function(_Halves(), _Halves(), *numbers))


def with_class(function: Any, kind: Any) -> Any:
    """The function with ``dict(...)`` making named tuples: Numba has no such dictionaries."""
    # builtins: NumPy imports more of itself in some calls
    scope = {**function.__globals__, "__builtins__": builtins, "dict": kind}
    rest = function.__name__, function.__defaults__, function.__closure__
    copy = FunctionType(function.__code__, scope, *rest)
    copy.__module__ = function.__module__
    return copy

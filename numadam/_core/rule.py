"""Update rules: a formula on scalars, the names of its state, the scalars of one step."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar, get_type_hints, overload

from numadam._core.hyper import Hyper, at_start
from numadam._jit.process import cached_property

Value = TypeVar("Value")
Options = Mapping[str, Any]


@cache
def named(name: str, fields: tuple[str, ...]) -> Any:
    """Class of named tuples; one for each name and fields, so that compiled code is shared."""
    return namedtuple(name, fields)


class ByOptions(Generic[Value]):
    """Field of a `RuleSpec`: set to a value or a function of the options, read as the function."""

    def __init__(self, default: Callable[[Options], Value]) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[[Options], Value]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[[Options], Value]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        return self._default if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: object, value: Value | Callable[[Options], Value]) -> None:
        function = value if callable(value) else lambda options: value
        instance.__dict__[self._name] = function


def _all_of_them(options: Options) -> tuple[str, ...]:
    raise NotImplementedError("stands for the state of the rule until that is known")


@dataclass(frozen=True, eq=False)
class RuleSpec:
    """One update rule.

    `present`, `variant`, `refuse`, `initial` and `modulus` are values, or functions of the options
    that return one.

    Attributes
    ----------
    name : str
        Lower-case name of the compiled formula, e.g. ``"adam"``. Rules that differ in defaults
        alone share it, and so the compiled loop.
    state : tuple of str
        Names of the state arrays, at most three.
    hypers : tuple of Hyper
        Float hyperparameters, which the control block holds.
    formula : callable
        ``formula(**variant) -> element``. For state ``("m", "v")`` it is
        ``element(p, g, m, v, h) -> (step, m, v)``, on scalars of the array's dtype: the loop then
        writes ``p - step``. With a parameter ``gg`` after g it gets the square of g (of its
        modulus, for complex numbers taken whole). An absent state array is ``None`` there. `h`
        are the scalars by name, with ``h.tiny`` (below it a first moment becomes 0) and
        ``h.zero``. It is compiled for CPU and CUDA: no Python object, and no literal number,
        which would widen float32 arithmetic to float64.
    scalars : callable
        ``scalars(c, q, lr, t, is_float32) -> Scalars``: what all elements share at step t (1 at
        the first), computed in float64 from the hyperparameters `c` and the products over the
        steps 1 to t `q`, both by name. Scalars is a `typing.NamedTuple` of the rule, named in the
        annotation. The loop rounds them once to the dtype.
    presets : mapping of str to mapping
        By library the keywords that ``like=`` gives; a library without the rule is not there.
    scalars_like, advance_like, power_like : mapping of str to callable
        Other `scalars` and `advance`, for presets whose library rounds on its way, and other
        ``power(beta, t)``, for those that are equal to the last bit.
    present : tuple of str
        State arrays in use; all of them unless said otherwise.
    variant : dict
        Keywords of `formula`: options that change the compiled code.
    switches : tuple of str
        Options that are True or False.
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
        ``advance(c, q, t, is_float32) -> Products``: products of other factors (of a momentum that
        changes, say) after step t from those before it. They are always carried. Products is a
        `typing.NamedTuple`, named in the annotation.
    nonnegative : tuple of str
        State arrays that hold sums or maxima of squares or moduli; below 0 their root is NaN.
    initial : dict
        State arrays that do not begin as zeros, and their value.
    modulus : tuple of str or None
        State arrays that hold a square and are real where a complex number is taken whole; None
        where the formula uses the gradient otherwise, so that it cannot be taken whole.
    """

    name: str
    state: tuple[str, ...]
    hypers: tuple[Hyper, ...]
    formula: Callable[..., Callable[..., Any]]
    scalars: Callable[..., Any]
    present: ByOptions[tuple[str, ...]] = ByOptions(_all_of_them)
    variant: ByOptions[dict[str, bool]] = ByOptions(lambda options: {})
    switches: tuple[str, ...] = ()
    control: Mapping[str, Callable[[Options], float]] = field(default_factory=dict)
    refuse: ByOptions[str] = ByOptions(lambda options: "")
    decoupled: bool = False
    powers: tuple[str, ...] = ()
    advance: Callable[..., Any] | None = None
    nonnegative: tuple[str, ...] = ()
    initial: ByOptions[dict[str, float]] = ByOptions(lambda options: {})
    modulus: ByOptions[tuple[str, ...] | None] = ByOptions(lambda options: None)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scalars_like: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    advance_like: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    power_like: Mapping[str, Callable[[float, float], float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.present is _all_of_them:
            object.__setattr__(self, "present", self.state)

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
        return any(like in of for of in (self.scalars_like, self.advance_like, self.power_like))

    def own_products(self, like: str | None) -> tuple[str, ...]:
        """Products that `advance` forms, in a preset or without one."""
        advance = self.advance_like.get(like or "", self.advance)
        return () if advance is None else _returned(advance)._fields

    def _products_after(self, own: tuple[str, ...]) -> tuple[str, ...]:
        powers = (f"{name}_product" for name in self.powers)
        return (*own, *(name for name in powers if name not in own))

    @property
    def squares(self) -> bool:
        """Whether the formula squares gradients: for `v`, as all literature names their mean."""
        return "v" in self.state

    def is_linear(self, options: Options) -> bool:
        """Whether steps grow with gradients: complex ones may be taken whole without a square."""
        return self.modulus(options) == ()

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
        own = _returned(self.scalars)
        return named(own.__name__, (*own._fields, "tiny", "zero"))


def _returned(function: Callable[..., Any]) -> Any:
    """The class of named tuples that a function says it returns."""
    return get_type_hints(function)["return"]

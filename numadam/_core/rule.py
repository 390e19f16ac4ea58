"""What a rule is: a formula on scalars, the names of its state, the scalars of one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numadam._core.hyper import Hyper, at_start

Scalars = tuple[float, ...]


def _plain(options: Mapping[str, Any]) -> dict[str, bool]:
    return {}


def _fine(options: Mapping[str, Any]) -> str:
    return ""


def _no_products(options: Mapping[str, Any]) -> tuple[str, ...]:
    return ()


def _zeros(options: Mapping[str, Any]) -> dict[str, float]:
    return {}


def _parts_only(options: Mapping[str, Any]) -> None:
    return None


def _unchanged(c: Any, q: Any, t: float, single: float) -> Scalars:
    return ()


@dataclass(frozen=True, eq=False)
class RuleSpec:
    """One update rule. Adding a rule is one file that makes one of these.

    Attributes
    ----------
    name : str
        Lower-case name of the compiled formula, e.g. ``"adam"``. Rules that differ in defaults
        alone share it, and so the compiled loop.
    state : tuple of str
        Names of the state arrays in the order in which `formula` takes them, at most three.
    hypers : tuple of Hyper
        Float hyperparameters; the control block holds their values in this order.
    formula : callable
        ``formula(**variant) -> element``, and
        ``element(p, g, gg, s0, s1, s2, h) -> (step, s0, s1, s2)`` works on scalars of the
        array's dtype: the loop then writes ``p - step``. `gg` is the square of g (of its
        modulus, for complex numbers taken whole). An absent state array arrives as ``None`` and
        goes back as ``None``. It is compiled for CPU and CUDA, so it holds no Python object and
        no integer literal that meets a float.
    scalars : callable
        ``scalars(c, q, lr, t, single) -> tuple of float``: from the control block `c` and the
        running products `q`, in float64, what the elements need at step t (1 at the first).
        `single` is 1.0 where the arithmetic is float32, else 0.0. The loop casts them once to
        the dtype and appends ``tiny`` (below it a first moment becomes 0) and ``zero``: together
        they are the `h` of `element`.
    scalars_like, advance_like : mapping of str to callable
        Other `scalars` and `advance`, for presets whose library rounds on its way.
    present : callable
        ``present(options) -> tuple of str``: which of `state` these options need.
    variant : callable
        ``variant(options) -> dict``: keywords of `formula`, what changes the compiled code.
    switches : tuple of str
        Options that are True or False.
    control : mapping of str to callable
        Further entries of the control block, after the hyperparameters, each as a function of
        the options: switches that are host scalars and so cost no second kernel.
    refuse : callable
        ``refuse(options) -> str``: what is wrong with these options together, or "".
    decoupled : bool
        Whether `weight_decay` shrinks the parameters (True) or is added to the gradient, unless
        the user says.
    products : callable
        ``products(options) -> tuple of str``: names of products over the steps (of a momentum
        that changes, say) that are carried from step to step and saved with the state.
    advance : callable
        ``advance(c, q, t, single) -> tuple of float``: these products with the factors of step
        t; what goes beyond those in use is left out.
    initial : callable
        ``initial(options) -> dict``: state arrays that do not begin as zeros, and their value.
    modulus : callable
        ``modulus(options) -> tuple of str or None``: state arrays that hold a square and are real
        where a complex number is taken whole; None where the formula uses the gradient otherwise,
        so that it cannot be taken whole.
    """

    name: str
    state: tuple[str, ...]
    hypers: tuple[Hyper, ...]
    formula: Callable[..., Callable[..., Any]]
    scalars: Callable[[Any, Any, float, float, float], Scalars]
    present: Callable[[Mapping[str, Any]], tuple[str, ...]]
    variant: Callable[[Mapping[str, Any]], dict[str, bool]] = _plain
    switches: tuple[str, ...] = ()
    control: Mapping[str, Callable[[Mapping[str, Any]], float]] = field(default_factory=dict)
    refuse: Callable[[Mapping[str, Any]], str] = _fine
    decoupled: bool = False
    products: Callable[[Mapping[str, Any]], tuple[str, ...]] = _no_products
    advance: Callable[[Any, Any, float, float], Scalars] = _unchanged
    initial: Callable[[Mapping[str, Any]], dict[str, float]] = _zeros
    modulus: Callable[[Mapping[str, Any]], tuple[str, ...] | None] = _parts_only
    scalars_like: Mapping[str, Callable[[Any, Any, float, float, float], Scalars]] = field(
        default_factory=dict
    )
    advance_like: Mapping[str, Callable[[Any, Any, float, float], Scalars]] = field(
        default_factory=dict
    )

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with all of them checked, one by one and together."""
        checked = dict(options)
        for hyper in self.hypers:
            checked[hyper.name] = hyper.check_or_schedule(options[hyper.name])
        for name in self.switches:
            if not isinstance(options[name], bool):
                raise TypeError(f"{name}: expected True or False, got {options[name]!r}.")
        problem = self.refuse(checked)
        if problem:
            raise ValueError(problem)
        return checked

    def control_values(self, options: Mapping[str, Any]) -> tuple[float, ...]:
        """The rule's part of a row of the control block, a schedule as its value at the start."""
        hypers = (at_start(hyper, options[hyper.name]) for hyper in self.hypers)
        switches = (float(entry(options)) for entry in self.control.values())
        return (*hypers, *switches)

    @property
    def width(self) -> int:
        """Length of the rule's part of a row of the control block."""
        return len(self.hypers) + len(self.control)

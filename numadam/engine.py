"""What the two engines, CPU and CUDA, offer to the optimiser: one contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numadam.rules.base import RuleSpec

Leaves = Sequence[Any]


class BareStep(NamedTuple):
    """One call of the bare face, its numbers checked: step number `t` of `rule`.

    `state` holds by name the arrays that the options need; `out` is None where there is none.
    """

    rule: RuleSpec
    options: Mapping[str, Any]
    p: Any
    g: Any
    state: Mapping[str, Any]
    t: int
    lr: float
    out: Any


class Engine(ABC):
    """State and step of one set of parameter arrays on one device.

    Attributes
    ----------
    params : list of arrays
        The parameters.
    control : numpy.ndarray
        The control block: float64 hyperparameters, read by every step.
    state : dict of str to list of arrays
        Views of the state arrays, leaf by leaf, shaped and laid out as the parameters.
    """

    params: list[Any]
    control: Any
    state: dict[str, list[Any]]

    @abstractmethod
    def __init__(
        self, rule: RuleSpec, options: Mapping[str, Any], params: Leaves, names: Sequence[str]
    ) -> None: ...

    @property
    @abstractmethod
    def t(self) -> Any:
        """Steps taken, a 0-d int64 array that shows the counter itself."""

    @abstractmethod
    def step(
        self, grads: Leaves, lr: float, params: Leaves | None = None, out: Leaves | None = None
    ) -> None:
        """Check everything, then take the whole step; t advances last."""

    @abstractmethod
    def gradients(self) -> list[Any]:
        """Gradient buffers of the parameters' shapes in one flat buffer, owned by the engine."""

    @abstractmethod
    def load(self, t: int, state: Mapping[str, Leaves]) -> None:
        """Copy t and all state arrays in; they have been checked. One copy, so whole or not."""

    @abstractmethod
    def check_arrays(self, what: str, leaves: Leaves) -> list[Any]:
        """Check arrays to be copied into the leaves of `what`, such as ``"state['m']"``."""

    @classmethod
    @abstractmethod
    def update(cls, call: BareStep) -> None:
        """Take a step on arrays that the caller owns."""

"""The outcome of a check of a gradient."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """The outcome of `numadam.check_grad`; shown as its message, true where `ok` is.

    Attributes
    ----------
    ok : bool
        Whether the gradient is right, as far as it was checked.
    status : str
        "right", "wrong", or "unclear": the differences are too bad to tell.
    message : str
        All that in one or two sentences.
    max_error : float
        Largest relative error of the gradient that the errors of the differences do not explain:
        ``(|value - difference| - 4 difference_error) / max(|value|, |difference|)``, or 0.
    tolerance : float
        `max_error` that is allowed.
    worst : str
        Name of the element, or of the random direction, where it is: ``x0['w'][3, 2]``.
    value, difference, difference_error : float
        The gradient there by formula, by differences, and the estimated error of these.
    wrong : tuple of str
        Names of the elements and directions where the gradient is wrong.
    checked : int
        Elements and directions that were compared.
    nfev : int
        Calls of `fun`.
    """

    ok: bool
    status: str
    message: str
    max_error: float
    tolerance: float
    worst: str
    value: float
    difference: float
    difference_error: float
    wrong: tuple[str, ...]
    checked: int
    nfev: int

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return textwrap.fill(self.message, 76, break_long_words=False, break_on_hyphens=False)

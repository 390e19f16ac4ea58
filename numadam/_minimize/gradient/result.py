"""The outcome of a check of a gradient."""

from __future__ import annotations

import textwrap
from typing import Any

from scipy.optimize import OptimizeResult

from numadam._core.choices import GradientStatus
from numadam._minimize.result import ResultType, entry, missing


class GradientCheck(OptimizeResult, metaclass=ResultType):  # type: ignore[misc]  # SciPy has no types
    """Result of `check_grad`: shown as its message, true where `ok` is.

    SciPy's `OptimizeResult`, a dict whose entries are attributes. `max_error` is the largest
    ``(|value - difference| - 4 difference_error) / max(|value|, |difference|)``.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> def fun(x):
    ...     return np.sum(x**2), 2 * x
    >>> check = na.check_grad(fun, np.ones(3), jac=True)
    >>> bool(check), check.status, check.checked
    (True, 'right', 3)
    """

    @entry
    def ok(self) -> bool:
        """Whether the gradient is right, as far as it was checked."""

    @entry
    def status(self) -> GradientStatus:
        """Outcome: "right", "wrong", or "unclear" where the differences are too bad to tell."""

    @entry
    def message(self) -> str:
        """All that in one or two sentences."""

    @entry
    def max_error(self) -> float:
        """Largest relative error that the errors of the differences do not explain, or 0."""

    @entry
    def tolerance(self) -> float:
        """`max_error` that is allowed."""

    @entry
    def worst(self) -> str:
        """Element or random direction of `max_error`: ``x0['w'][3, 2]``."""

    @entry
    def value(self) -> float:
        """The gradient in `worst`, by formula."""

    @entry
    def difference(self) -> float:
        """The gradient in `worst`, by differences."""

    @entry
    def difference_error(self) -> float:
        """Estimated error of `difference`."""

    @entry
    def wrong(self) -> tuple[str, ...]:
        """Names of the elements and directions where the gradient is wrong."""

    @entry
    def unclear(self) -> tuple[str, ...]:
        """Names of those for which differences cannot tell."""

    @entry
    def checked(self) -> int:
        """Elements and directions that were compared."""

    @entry
    def nfev(self) -> int:
        """Calls of `fun`."""

    def __getattr__(self, name: str) -> Any:
        raise missing(self, name)

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        return textwrap.fill(self.message, 76, break_long_words=False, break_on_hyphens=False)

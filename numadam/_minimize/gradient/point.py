"""x as one vector of real numbers on the host; f and the gradient there."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numba.core.errors import NumbaError

from numadam._arrays.checks import common_dtype
from numadam._arrays.interop import is_cupy, to_host
from numadam._arrays.tree import Active, Tree
from numadam._minimize.arguments import own_copy, read_args
from numadam._minimize.compiled.objective import (
    RETURNS,
    adapter_for,
    check_for_compiled,
    check_plain,
    form_of,
    is_compiled,
)
from numadam._minimize.objective import Objective
from numadam._optimizer.dispatch import backend_for
from numadam._settings.bounds import inward, leaf_bounds

#: Names of the parts of a complex number.
_COMPLEX_PARTS = ".real", ".imag"
#: Note on an exception of `fun` that x0 itself does not raise.
_BESIDE = (
    "numadam: check_grad calls fun beside x0, up to 10 % away. Where fun cannot be evaluated "
    "there, take another x0 or pass bounds, which no call leaves."
)


class Point:
    """The user's function at any x, which is here one vector of real numbers.

    `x` is x0, moved into the bounds `low` and `high` of each element; real and imaginary parts of a
    complex number are neighbours. `ends` and `names` are those of the arrays in it, `eps` is of
    their dtype.
    """

    def __init__(self, fun: Any, x0: Any, args: Any, jac: Any, bounds: Any) -> None:
        tree_of_x = own_copy(x0)
        tree = Tree(tree_of_x)
        self._leaves = list(tree.flatten(tree_of_x, "x0"))
        self.names = tree.names("x0")
        dtype = common_dtype(self._leaves, self.names)
        backend = backend_for(self._leaves, self.names)
        active = Active(tree, [True] * tree.size)
        self._complex, self.eps = dtype.kind == "c", float(np.finfo(dtype).eps)
        self._real = np.dtype(np.finfo(dtype).dtype)
        sizes = [leaf.size * (2 if self._complex else 1) for leaf in self._leaves]
        self.ends = np.cumsum(sizes)
        self.low, self.high = self._limits(leaf_bounds(bounds, active, self._leaves, self.names))
        self.x = np.clip(self._flat(self._leaves), self.low, self.high)
        args = read_args(args, is_compiled(fun))
        if is_compiled(fun) and not callable(jac):
            check_for_compiled(tree_of_x)
            fun, args, jac = _as_pair(fun, args, jac, tree_of_x), (), True
        elif is_compiled(fun):
            check_plain(fun, args)
        self._objective = Objective(fun, args, jac, tree_of_x, active, None, backend.is_host)
        self._tree = active
        #: whether the gradient has a function of its own
        self.has_jac = self._objective.apart

    def at_start(self, need_f: bool) -> tuple[Any, np.ndarray]:
        """F, None where it is not needed and the gradient comes without, and the gradient at x0."""
        self._write(self.x)
        f, g = self._objective.evaluate(need_f)
        return f, self._flat(self._tree.flatten(g, "jac"))

    def value(self, x: np.ndarray) -> float:
        """F at another x; infinite or NaN where its arithmetic fails, as `math.exp` of 1000."""
        self._write(x)
        objective = self._objective
        try:
            with np.errstate(all="ignore"):
                return float(objective.value() if self.has_jac else objective.evaluate(True)[0])
        except OverflowError:
            return np.inf
        except ArithmeticError:
            return np.nan
        except Exception as error:
            error.add_note(_BESIDE)
            raise

    @property
    def nfev(self) -> int:
        """Calls of `fun`."""
        return self._objective.nfev

    def arrays(self, flat: np.ndarray) -> list[np.ndarray]:
        """A vector in the shapes of the arrays of x0; complex where they are."""
        parts = np.split(flat, self.ends[:-1])
        if self._complex:
            parts = [part.view(np.complex128) for part in parts]
        return [part.reshape(leaf.shape) for part, leaf in zip(parts, self._leaves, strict=True)]

    def leaf_of(self, place: int) -> int:
        """The number of the array that holds an element of the vector."""
        return int(np.searchsorted(self.ends, place, side="right"))

    def name(self, place: int) -> str:
        """Name of an element: ``x0['w'][3, 2]``, ``x0[5].imag``."""
        leaf = self.leaf_of(place)
        inside = place - int(self.ends[leaf - 1] if leaf else 0)
        part = _COMPLEX_PARTS[inside % 2] if self._complex else ""
        inside //= 2 if self._complex else 1
        at = ", ".join(map(str, np.unravel_index(inside, self._leaves[leaf].shape)))
        return f"{self.names[leaf]}{f'[{at}]' if at else ''}{part}"

    def _flat(self, leaves: Any) -> np.ndarray:
        """Numbers of arrays as one vector of float64."""
        wide = np.complex128 if self._complex else np.float64
        parts = [np.ascontiguousarray(to_host(leaf), wide).reshape(-1) for leaf in leaves]
        return np.concatenate([part.view(np.float64) for part in parts])

    def _limits(self, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound of each element of the vector, rounded into the dtype of x."""
        sides = []
        for side, other in ((0, np.inf), (1, -np.inf)):
            parts = [
                np.broadcast_to(inward(pair[side], self._real, other), leaf.shape)
                for pair, leaf in zip(pairs, self._leaves, strict=True)
            ]
            flat = np.concatenate([part.reshape(-1).astype(np.float64) for part in parts])
            sides.append(np.repeat(flat, 2) if self._complex else flat)
        return sides[0], sides[1]

    def _write(self, flat: np.ndarray) -> None:
        """Write a vector into the arrays of which `fun` gets copies."""
        for leaf, values in zip(self._leaves, self.arrays(flat), strict=True):
            given = values.astype(leaf.dtype)
            leaf[...] = array_namespace(leaf).asarray(given) if is_cupy(leaf) else given


def _as_pair(fun: Any, args: tuple[Any, ...], jac: Any, x: np.ndarray) -> Any:
    """A compiled objective as ``fun(x) -> (f, gradient)``, called as the compiled loop does."""
    form = form_of(fun, args, jac, many=False)

    def pair(x: np.ndarray) -> Any:
        # an objective with explicit signatures would not be found for a read-only x
        x.flags.writeable = not fun._can_compile  # noqa: SLF001  # Numba's
        try:
            if form == RETURNS:
                return fun(x, *args)
            g = np.zeros_like(x)
            return fun(x, g, *args), g
        except NumbaError:
            adapter_for(fun, form, x.dtype, x.ndim, args)  # says what is wrong
            raise

    return pair

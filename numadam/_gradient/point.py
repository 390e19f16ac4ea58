"""The user's function at any x, which is here one vector of real numbers on the host."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from numadam._arrays.checks import common_dtype
from numadam._arrays.interop import is_cupy, to_host
from numadam._arrays.tree import Tree
from numadam._core.hyper import count
from numadam._least_squares import objective as residuals
from numadam._least_squares.least_squares_many import (
    least_squares_many,
    read_bounds,
    read_starts,
)
from numadam._minimize.arguments import own_copy, read_args
from numadam._minimize.compiled import objective as compiled
from numadam._minimize.objective import Objective
from numadam._optimizer.base import backend_for
from numadam._settings.bounds import inward, leaf_bounds

#: Note on an exception of `fun` that x0 itself does not raise.
_BESIDE = (
    "numadam: check_grad calls fun beside x0, up to 10 % away. Where fun cannot be evaluated "
    "there, take another x0 or pass bounds, which no call leaves."
)


class Point:
    """An objective, whose one value has a gradient.

    Attributes
    ----------
    x, low, high : array
        x0, moved into the bounds of each element; real and imaginary parts are neighbours.
    ends : array
        Ends of the arrays in x.
    eps : float
        Of the dtype of x.
    values_of : int
        Number of values that have derivatives.
    has_jac : bool
        Whether the gradient has a function of its own.
    nouns : tuple
        What the derivatives are called, all together and one.
    """

    nouns, values_of, has_jac = ("gradient", "element"), 1, False
    #: the exact derivatives at x, of a compiled function that writes some by hand
    _exact: Callable[[np.ndarray], Any] | None = None

    def __init__(self, fun: Any, x0: Any, args: Any, jac: Any, bounds: Any) -> None:
        nested, self.nfev = own_copy(x0), 0
        self._tree = tree = Tree(nested)
        self._leaves, self._names = list(tree.flatten(nested, "x0")), tree.names("x0")
        dtype = self._dtype = common_dtype(self._leaves, self._names)
        on_host = backend_for(self._leaves, self._names).is_host
        self._real, self.eps = np.dtype(np.finfo(dtype).dtype), float(np.finfo(dtype).eps)
        #: real numbers in an element
        self._width = dtype.itemsize // self._real.itemsize
        self.ends = np.cumsum([leaf.size * self._width for leaf in self._leaves])
        pairs = leaf_bounds(bounds, self._tree, self._leaves, self._names)
        ends = zip(*pairs, strict=True)
        self.low, self.high = map(self._limit, ends, (np.inf, -np.inf))
        self.x = np.clip(self.flat(self._leaves), self.low, self.high)
        args = read_args(args, compiled.is_compiled(fun))
        if compiled.is_compiled(fun) and not callable(jac):
            compiled.check_for_compiled(nested)
            form = compiled.form_of(fun, args, jac, many=False, derives=False)
            adapter = compiled.objective_for(fun, form, nested, args)
            call = functools.partial(adapter.call_again, number=0, args=args)
            if form == compiled.WRITES and compiled.derives(nested.shape, nested.dtype):
                exact = compiled.derivatives().exact_gradient
                self._exact = functools.partial(exact, fun, args=args)
            fun, args, jac = call, (), True
        elif compiled.is_compiled(fun):
            compiled.check_plain(fun, args)
        self._objective = Objective(fun, args, jac, nested, self._tree, None, on_host)
        self.has_jac = self._objective.apart

    def _limit(self, given: Any, other: float) -> np.ndarray:
        """One bound of each element of the vector, rounded into the dtype of x."""
        parts = [
            np.broadcast_to(inward(one, self._real, other), leaf.shape)
            for one, leaf in zip(given, self._leaves, strict=True)
        ]
        return np.concatenate([np.repeat(part, self._width) for part in parts], dtype=np.float64)

    def start(self, need_f: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The value at x0, where it is needed or comes along, and the row of its derivatives."""
        self.nfev += need_f or not self.has_jac
        self._write(self.x)
        f, g = self._objective.evaluate(need_f)
        value = np.nan if f is None else float(f)  # of a `jac` alone f is not known
        return np.array([value]), self.flat(self._tree.flatten(g, "jac"))[None]

    def exact(self) -> np.ndarray | None:
        """Exact derivatives at x0, where the function has them."""
        wide = np.complex128 if self._dtype.kind == "c" else np.float64
        found = self._exact and self._exact(self.x.view(wide).astype(self._dtype))
        return None if found is None else np.atleast_2d(found.astype(wide)).view(np.float64)

    def values(self, x: np.ndarray) -> np.ndarray:
        """All values at another x; infinite or NaN where arithmetic fails, as `math.exp(1000)`."""
        self.nfev += 1
        try:
            with np.errstate(all="ignore"):
                return self._values(x)
        except ArithmeticError as error:
            value = np.inf if isinstance(error, OverflowError) else np.nan
            return np.full(self.values_of, value)
        except Exception as error:
            error.add_note(_BESIDE)
            raise

    def _values(self, x: np.ndarray) -> np.ndarray:
        self._write(x)
        f = self._objective.value() if self.has_jac else self._objective.evaluate(True)[0]
        return np.array([float(f)])

    def arrays(self, flat: np.ndarray) -> list[np.ndarray]:
        """A vector in the shapes of the arrays of x0; complex where they are."""
        parts = np.split(
            flat.view(np.complex128) if self._width > 1 else flat, self.ends[:-1] // self._width
        )
        return [part.reshape(leaf.shape) for part, leaf in zip(parts, self._leaves, strict=True)]

    def flat(self, leaves: Any) -> np.ndarray:
        """Real numbers of arrays as one vector."""
        wide = np.complex128 if self._width > 1 else np.float64
        parts = [np.ascontiguousarray(to_host(leaf), wide).reshape(-1) for leaf in leaves]
        return np.concatenate(parts).view(np.float64)

    def group(self, place: int) -> str:
        """Name of the array that holds an element of the vector."""
        return self._names[np.searchsorted(self.ends, place, side="right")]

    def name(self, place: int, value: int | None = None) -> str:
        """Name of an element, which is that of its derivative: ``x0['w'][3, 2]``."""
        leaf = int(np.searchsorted(self.ends, place, side="right"))
        inside, part = divmod(place - int(self.ends[leaf - 1] if leaf else 0), self._width)
        at = ", ".join(map(str, np.unravel_index(inside, self._leaves[leaf].shape)))
        side = (".real", ".imag")[part] if self._width > 1 else ""
        return f"{self._names[leaf]}{f'[{at}]' if at else ''}{side}"

    def _write(self, flat: np.ndarray) -> None:
        """Write a vector into the arrays of which `fun` gets copies."""
        for leaf, values in zip(self._leaves, self.arrays(flat), strict=True):
            given = values.astype(leaf.dtype)
            leaf[...] = array_namespace(leaf).asarray(given) if is_cupy(leaf) else given


class Residuals(Point):
    """Compiled residuals of one problem, as of `least_squares_many`, with a Jacobian."""

    nouns = "Jacobian", "derivative"

    def __init__(self, fun: Any, x0: Any, args: Any, m: Any, jac: Any, bounds: Any) -> None:
        if is_cupy(x0):
            raise TypeError("x0: residuals are checked on the CPU. Pass cupy.asnumpy(x0).")
        x = read_starts(np.atleast_2d(own_copy(x0)))
        if len(x) > 1:
            raise ValueError(
                f"x0: got {len(x)} problems; one is checked. Pass x0[i], and (i, *args) as args."
            )
        # one evaluation refuses what residuals write outside of r and J
        jac = True if jac is None else jac
        least_squares_many(fun, x, args, m=m, jac=jac, bounds=bounds, max_nfev=1)
        args = read_args(args, compiled=True)
        form = residuals.form_of(fun, args, True)
        adapter = residuals.adapter_for(fun, form, x.dtype, args)
        self.low, self.high = (end[0].astype(np.float64) for end in read_bounds(bounds, x))
        self.x = np.clip(x[0].astype(np.float64), self.low, self.high)
        self.values_of, self.nfev, self._dtype = count("m", m, 1), 0, x.dtype
        self._call = functools.partial(adapter.call_again, m=self.values_of, number=0, args=args)
        if compiled.derives(x[0].shape, x.dtype):
            exact, numbers = compiled.derivatives().exact_jacobian, (0,) * form[1]
            self._exact = functools.partial(exact, fun, m=self.values_of, args=(*numbers, *args))
        self.ends, self.eps = np.array([x.size]), float(np.finfo(x.dtype).eps)

    def start(self, need_f: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Residuals at x0, and their J."""
        self.nfev += 1
        r, J = self._call(self.x.astype(self._dtype))
        return r.astype(np.float64), J.astype(np.float64)

    def _values(self, x: np.ndarray) -> np.ndarray:
        return self._call(x.astype(self._dtype))[0].astype(np.float64)

    def group(self, place: int) -> str:
        """Name of the column that is the derivative by an element."""
        return f"column {place}"

    def name(self, place: int, value: int | None = None) -> str:
        """Name of an unknown, or of the derivative of a residual: ``J[3, 0]``."""
        return f"x0[{place}]" if value is None else f"J[{value}, {place}]"

"""Objective in Python: called once at each x, its results checked, its calls counted."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np

from numadam._arrays.checks import describe, in_dtype, is_masked, refuse_more_than_numbers
from numadam._arrays.interop import as_view, is_array, is_cupy, units_of
from numadam._arrays.tree import Tree
from numadam._core.hyper import Differences
from numadam._core.parts import parts_of
from numadam._jit import private
from numadam._minimize.arguments import copy_tree

if TYPE_CHECKING:
    from numadam._minimize.checkpoint import Task

# --- the objective -------------------------------------------------------------------------------


_DIFFERENCES = get_args(Differences)
#: Differences at the end of a run: how much longer the steps are than those of "3-point", the
#: second where the gradient was 0 from the beginning; the part of its first gradient that a
#: component may have left; and roundings of f.
_LONGER, _LEFT, _ROUNDINGS = (8.0, 1e4), 1e-2, 8.0
_GRADIENT = "fun: its gradient"
_LISTED = " args is a list, which fun gets as one argument; for one argument each pass a tuple."


def refuse_uncompiled(fun: Any, args: tuple[Any, ...], *numbers: int) -> None:
    """Refuse a function in Python with a parameter for g, which only a compiled one gets.

    `numbers` stands for the number of the problem, where `fun` might take it.
    """
    try:
        # of the wrapper itself: it may add arguments for the function that it wraps
        signature = inspect.signature(fun, follow_wrapped=False)
    except ValueError:  # some functions written in C have none
        return
    if _fits(signature, None, *args):
        return
    if _fits(signature, None, None, *args) or _fits(signature, None, None, *numbers, *args):
        name = getattr(fun, "__name__", "fun")
        raise TypeError(
            f"fun: is called with x and {len(args)} args, got {name}{signature}. Pass the rest in "
            "args, or, if it writes the gradient into g, compile it: put @numba.njit above it."
        )


def _fits(signature: inspect.Signature, *args: Any) -> bool:
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True


def cast(array: Any, dtype: np.dtype[Any], name: str) -> Any:
    """An array that the user returned in the dtype of x, C-ordered: the one place that converts.

    A `step` refuses other dtypes, since a conversion costs a pass over memory. Here the precision
    of x is what counts, whatever `fun` computes in.
    """
    if is_masked(array) or units_of(array) is not None:
        raise TypeError(f"{name}: {describe(array)}")
    if array.dtype.kind not in "fiub" + ("c" if dtype.kind == "c" else ""):
        raise TypeError(f"{name} has dtype {array.dtype}, expected {dtype}.")
    return in_dtype(array, dtype)


def split_pair(given: Any, hint: str = "") -> tuple[Any, Any]:
    """The f and gradient that `fun` returned with ``jac=True``."""
    try:
        f, g = given
    except (TypeError, ValueError):
        raise TypeError(
            f"fun: with jac=True it has to return (f, gradient), got {type(given).__name__}.{hint}"
        ) from None
    return f, g


def _both_of(given: Any) -> tuple[Any, Any]:
    return split_pair(
        given, " If fun returns f alone, pass jac=function, which returns the gradient."
    )


class Objective:
    """Evaluate f and its gradient by the user's functions, or by finite differences.

    `fun` gets copies of `x`, of the structure `tree`. `box`: bounds of each array, for finite
    differences.
    """

    def __init__(
        self,
        fun: Any,
        args: tuple[Any, ...],
        jac: Any,
        x: Any,
        tree: Tree,
        box: Any,
        on_host: bool,
    ) -> None:
        if not callable(fun):
            raise TypeError(f"fun: expected a function of x, got {type(fun).__name__}.")
        refuse_uncompiled(fun, args)
        self._fun, self._args, self._jac, self._x, self._tree = fun, args, jac, x, tree
        self._leaves = list(tree.flatten(x, "x0"))
        self._shapes = [leaf.shape for leaf in self._leaves]
        self._dtype = self._leaves[0].dtype if self._leaves else np.dtype(float)
        self._numpy, self._one, self._box = on_host, tree.is_leaf, box
        #: a copy of x, which the user may keep or write to
        self._copied = x.copy if self._one else functools.partial(copy_tree, x)
        self.nfev = self.njev = 0
        #: whether f alone costs less than f and its gradient
        self.apart = jac is not True
        self._evaluate = self._choose(jac)

    @classmethod
    def of_task(cls, task: Task, optimizer: Any) -> Self:
        """The objective of a run; its bounds limit finite differences."""
        tree, settings, backend, _ = parts_of(optimizer)
        boxes = settings.leaf_boxes()
        return cls(task.fun, task.args, task.jac, task.x, tree, boxes, backend.is_host)

    @property
    def evaluate(self) -> Callable[[bool], tuple[Any, Any]]:
        """``evaluate(need_f)``: f, or None, and the gradient.

        Made where it is read: kept, it would hold args in a cycle for the garbage collector.
        """
        if self._jac is True and self._one and self._numpy:
            return self._both_at_one_array()
        return MethodType(self._evaluate, self)

    def _choose(self, jac: Any) -> Callable[[Objective, bool], tuple[Any, Any]]:
        if jac is True:
            return Objective._both
        if callable(jac):
            return Objective._separately
        if jac is None or jac is False or (isinstance(jac, str) and jac in _DIFFERENCES):
            #: the differences, and `numpy.seterr` of fun: not of the arithmetic around it
            self._method, self._errors = jac or "2-point", np.geterr()
            if not self._numpy:
                raise TypeError("jac: finite differences are formed on NumPy arrays only.")
            if self._dtype.kind == "c":
                raise TypeError(
                    f"jac: finite differences take real x, this is {self._dtype}. Let fun return "
                    "the gradient, or minimise over real and imaginary parts."
                )
            return Objective._differences
        raise ValueError(
            f"jac: expected True, a function, or one of {', '.join(map(repr, _DIFFERENCES))}, "
            f"got {jac!r}."
        )

    def _both_at_one_array(self) -> Callable[[bool], tuple[Any, Any]]:
        """`_both` for one NumPy array, with locals instead of attributes and calls: 1.5 us less."""
        fun, args, x, copied = self._fun, self._args, self._x, self._copied
        shape, dtype, ndarray = x.shape, x.dtype, np.ndarray

        def both(need_f: bool) -> tuple[Any, Any]:
            self.nfev = self.njev = self.nfev + 1
            given = fun(copied(), *args) if args else fun(copied())  # 0.1 us less
            f, g = given if type(given) is tuple and len(given) == 2 else _both_of(given)
            if type(f) is not float:
                f = self._number(f)
            plain = type(g) is ndarray and g.dtype is dtype and g.shape == shape
            if not (plain and g.flags.c_contiguous):
                g = self._leaf(g, 0, _GRADIENT)
            return f, g

        return both

    def _both(self, need_f: bool) -> tuple[Any, Any]:
        self.nfev += 1
        self.njev += 1
        f, g = _both_of(self._fun(self._copied(), *self._args))
        return self._number(f), self._gradient(g, _GRADIENT)

    def _separately(self, need_f: bool) -> tuple[Any, Any]:
        f = self.value() if need_f else None
        self.njev += 1
        g = self._jac(self._copied(), *self._args)
        return f, self._gradient(g, "jac: the gradient")

    def value(self) -> Any:
        """Evaluate f alone; with ``jac=True`` its gradient comes with it, for nobody."""
        self.nfev += 1
        given = self._fun(self._copied(), *self._args)
        return self._number(_both_of(given)[0] if self._jac is True else given)

    def _number(self, f: Any) -> Any:
        if type(f) is float or type(f) is np.float64:
            return f
        if not self._numpy and is_cupy(f) and f.size == 1:
            return f.reshape(())  # read from its device when it is needed
        if f is None:
            raise TypeError("fun: returned None; is there a `return`?")
        refuse_more_than_numbers(f, "fun", "f has to be a plain number")
        try:
            array = np.asarray(f)
        except (TypeError, ValueError):
            array = np.empty(0)
        if array.size != 1 or array.dtype.kind not in "fiub":
            of = f" of shape {f.shape} and dtype {f.dtype}" if hasattr(f, "dtype") else ""
            both = isinstance(f, tuple) and len(f) == 2 and self._jac is not True
            hint = " Pass jac=True if fun returns (f, gradient)." if both else ""
            if self._jac is True and array.size > 1:
                hint = " With jac=True fun returns (f, gradient), in this order."
            if array.size > 1:
                hint = self._about_list() or hint
            raise TypeError(f"fun: f has to be one real number, got {type(f).__name__}{of}.{hint}")
        return float(array.reshape(()))

    def _about_list(self) -> str:
        """Advice where the only argument is a list, as SciPy's users write `args`."""
        return _LISTED if [type(arg) for arg in self._args] == [list] else ""

    def _gradient(self, g: Any, name: str) -> Any:
        if self._one:
            return self._leaf(g, 0, name)
        leaves = self._tree.flatten(g, name)
        return self._tree.unflatten([self._leaf(leaf, k, name) for k, leaf in enumerate(leaves)])

    def _leaf(self, g: Any, k: int, name: str) -> Any:
        """One gradient array in the dtype and shape of its x, C-ordered."""
        shape, dtype = self._shapes[k], self._dtype
        if type(g) is np.ndarray and g.dtype is dtype and g.shape == shape and self._numpy:
            return g if g.flags.c_contiguous else np.ascontiguousarray(g)
        lost = is_masked(g) or units_of(g) is not None
        if lost or (is_array(g) and is_cupy(g) == self._numpy):
            raise TypeError(f"{name}: {describe(g, 'NumPy' if self._numpy else 'CuPy')}")
        if not self._numpy:
            g = as_view(g)
            if not is_array(g):
                raise TypeError(f"{name}: {describe(g, 'CuPy')}")
        elif g is None:
            raise TypeError(f"{name} is None; is there a `return`?")
        elif type(g) is tuple and len(g) == 2 and np.ndim(g[0]) == 0 < np.ndim(g[1]):
            raise TypeError(
                f"{name}: got a pair of a number and an array. Where one function returns "
                "(f, gradient), pass it as fun, with jac=True."
            )
        else:
            g = np.asarray(g)
        if g.shape != shape and not (g.size == self._leaves[k].size == 1):
            same = " Use .reshape(x.shape)." if g.size == math.prod(shape) else ""
            advice = self._about_list() or same
            raise ValueError(f"{name} has shape {g.shape}, expected {shape} like x.{advice}")
        return cast(g, dtype, name).reshape(shape)

    def _differences(self, need_f: bool) -> tuple[Any, Any]:
        flat = np.concatenate([leaf.reshape(-1) for leaf in self._leaves])
        f = self._at(flat)
        self.njev += 1
        g = self._slopes(flat, f, self._method)
        return float(f), self._tree.unflatten(self._shaped(in_dtype(g, self._dtype)))

    @np.errstate(all="ignore")
    def is_at_rest(self, f: float, firsts: Sequence[Any], gtol: float) -> bool:
        """Whether longer steps show as well that x is at rest, where differences say so.

        A step that f does not show, or across which f bends, gives a slope of 0 where there is
        none. `firsts` are the first gradients of each component.
        """
        if self._evaluate is not Objective._differences or self._method == "cs":
            return True
        flat = np.concatenate([leaf.reshape(-1) for leaf in self._leaves])
        eps, first = np.finfo(self._dtype).eps, np.concatenate([one.ravel() for one in firsts])
        unit, (low, high) = eps ** (1 / 3) * np.maximum(1.0, abs(flat)), self._flat_box()
        for longer in _LONGER[: 1 if first.any() else 2]:
            step = (longer * unit).astype(self._dtype)
            left = abs(flat - np.clip(flat - self._slopes(flat, f, "3-point", step), low, high))
            rounded = _ROUNDINGS * np.finfo(np.float64).eps * abs(f) / step
            if not (left <= np.maximum(_LEFT * first, gtol) + rounded).all():
                return False
        return True

    def _slopes(self, flat: np.ndarray, f: Any, method: Any, step: Any = None) -> np.ndarray:
        """SciPy's differences at x, where f is known; `step` is absolute, and SciPy's if None."""
        low, high = self._flat_box()
        free = np.broadcast_to(np.asarray(low < high), flat.shape)
        g = np.zeros(flat.shape)  # 0 where the bounds fix x
        if not np.isfinite(f):
            g[:] = np.nan
        elif free.any():

            def part(y: np.ndarray) -> Any:
                whole = flat.astype(y.dtype)
                whole[free] = y
                with np.errstate(**self._errors):
                    return self._at(whole)

            ends = tuple(np.broadcast_to(end, flat.shape)[free] for end in (low, high))
            step = None if step is None else step[free]
            with np.errstate(all="ignore"):
                g[free] = private.approx_derivative(
                    part, flat[free], method=method, f0=f, bounds=ends, abs_step=step
                )
        return g

    def _shaped(self, flat: np.ndarray) -> list[np.ndarray]:
        """The parts of a flat array, in the shapes of the leaves."""
        parts = np.split(flat, np.cumsum([leaf.size for leaf in self._leaves])[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _at(self, flat: np.ndarray) -> Any:
        """Evaluate f at a flat x of any dtype: 'cs' is complex."""
        self.nfev += 1
        f = self._fun(self._tree.unflatten(self._shaped(flat.copy()), self._x), *self._args)
        if flat.dtype.kind == "c":
            refuse_more_than_numbers(f, "fun", "f has to be a plain number")
            return f
        return float(self._number(f))

    def _flat_box(self) -> tuple[Any, Any]:
        if self._box is None:
            return np.float64(-np.inf), np.float64(np.inf)
        ends = []
        for side in (0, 1):
            parts = [
                np.broadcast_to(np.asarray(pair[side], self._dtype), shape).reshape(-1)
                for pair, shape in zip(self._box, self._shapes, strict=True)
            ]
            ends.append(np.concatenate(parts))
        return ends[0], ends[1]

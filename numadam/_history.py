"""`History`: a record of a run, step by step."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays import formatting
from numadam._arrays.interop import as_view
from numadam._arrays.tree import Tree
from numadam._core.hyper import check_switch, count
from numadam._core.parts import parts_of

__all__ = ["History"]

# --- norms ---------------------------------------------------------------------------------------


def gradient_norm(opt: Any, grads: Any) -> float:
    """Norm of the gradients that were passed, else the norm of the last step, else NaN."""
    tree, settings, _, _ = parts_of(opt)
    if grads is None:
        if not settings.plan.norm:
            return math.nan
        norms = opt.grad_norm
        return math.hypot(*norms) if isinstance(norms, list) else float(norms)
    leaves = tree.flatten(grads, "grads")
    for leaf, name in zip(leaves, tree.names("grads"), strict=True):
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "ravel"):
            raise TypeError(
                f"{name}: expected a dense array, got {type(leaf).__name__}. Leave grads out and "
                "set opt.clip_norm = numpy.inf: its step then forms the norm."
            )
    return norm_of(leaves)


def norm_of(leaves: Sequence[Any]) -> float:
    """Euclidean norm of all elements of all arrays."""
    return math.hypot(*map(_norm, leaves))


def _norm(leaf: Any) -> float:
    """Euclidean norm of one array; scaled, for its squares may leave the range."""
    with np.errstate(all="ignore"):
        sizes = abs(as_view(leaf))
        top = float(sizes.max()) if sizes.size else 0.0
        if top == 0.0 or not math.isfinite(top):
            return top
        sizes = sizes / top
        sizes *= sizes
        return top * math.sqrt(float(sizes.sum(dtype=np.float64)))


# --- records -------------------------------------------------------------------------------------


#: The columns of a record; `ratio` is computed from two of them.
_STORED = ("t", "f", "grad_norm", "step_norm", "param_norm", "lr")
#: Columns in the order in which they are shown.
SHOWN = ("t", "f", "grad_norm", "step_norm", "param_norm", "ratio", "lr")


def as_number(f: Any) -> float:
    """The objective as a float; NaN where there is none."""
    if f is None:
        return math.nan
    try:
        return float(f)
    except (TypeError, ValueError):
        raise TypeError(f"f: expected a number, got {type(f).__name__}.") from None


# --- the picture ---------------------------------------------------------------------------------


def _panel(ax: Any, t: np.ndarray, name: str, values: np.ndarray) -> None:
    seen = values[np.isfinite(values)]
    ax.plot(t, values, lw=1.2, marker="." if len(seen) < 2 else None)
    if len(seen) and (seen > 0).all():
        ax.set_yscale("log")
    ax.set_xlabel("t")
    ax.set_ylabel(name)
    ax.grid(alpha=0.3)


def _new_axes(count: int) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plot: needs matplotlib: pip install matplotlib") from error
    across = min(count, 2)
    down = -(-count // across)
    size, how = (4.5 * across, 2.8 * down), {"sharex": True, "squeeze": False}
    figure, axes = plt.subplots(down, across, figsize=size, layout="constrained", **how)
    for spare in axes.ravel()[count:]:
        figure.delaxes(spare)
    return axes.ravel()[:count]


# --- the history ---------------------------------------------------------------------------------


class History:
    r"""A record of a run: f, norms and learning rate every few steps.

    It works as a callback of `minimize`. In your own loop call `record` after each `step`:

    .. math:: \text{ratio} = \frac{\|p_t - p_{t-1}\|}{\|p_t\|}

    Parameters
    ----------
    every : int, default 1
        Record one step in this many; `minimize` adds the start and the end.
    norms : bool, default True
        Whether to compute the norms of parameters and step. They need a copy of the parameters
        and, at each recorded step, a few passes over them.

    Notes
    -----
    Columns, all float64 but t:

    - ``t``: steps taken, 0 at the start.
    - ``f``: the objective there, NaN if it was not passed.
    - ``grad_norm``: under `record` the Euclidean norm of all gradients before any clip, of the
      step that led there. Under `minimize` the norm of the projected gradient at t that the stop
      tests use: its largest component, or the norm that `norm` selects.
    - ``step_norm``: Euclidean norm of ``p_t - p_{t-1}``, the last single step whatever `every` is;
      NaN if the parameters one step before are not known.
    - ``param_norm``: Euclidean norm of the parameters.
    - ``ratio``: ``step_norm / param_norm``. About 1e-3 is usual in training; far above it
      a run is unstable, far below it the parameters hardly change.
    - ``lr``: the learning rate of the step that led there, NaN if it is an array.

    A history belongs to one run. If t decreases (a new run, or an earlier state loaded), the
    records from that t on are dropped. It can be pickled, and does not change the run.

    References
    ----------
    Karpathy, "CS231n: Neural networks part 3" (ratio of updates to weights), 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> history = na.History(every=10)
    >>> x = np.array([3.0, -2.0])
    >>> opt = na.Adam(x, lr=0.1)
    >>> for _ in range(100):
    ...     f, grads = np.sum(x**2), 2 * x
    ...     opt.step(grads)
    ...     history.record(opt, f, grads)
    >>> history
    History(every=10, 10 records, t=10..100, f=5.7..0.000517)
    >>> history["lr"][-1], history["t"][:3]
    (np.float64(0.1), array([10, 20, 30]))

    As a callback:

    >>> def fun(x):
    ...     return np.sum(x**2), 2 * x
    >>> history = na.History()
    >>> res = na.minimize(fun, [3.0, -2.0], jac=True, lr=0.1, callback=history)
    >>> len(history) == res.nit + 1
    True
    """

    def __init__(self, every: int = 1, *, norms: bool = True) -> None:
        self._every, self._norms = count("every", every, 1), check_switch("norms", norms)
        self._values = array("d")  # of steps in increasing order of t, 48 bytes each
        self._copy: list[Any] = []
        self._copy_of = -1  # the step at which `_copy` was taken

    @property
    def every(self) -> int:
        """Number of steps from one record to the next."""
        return self._every

    def record(self, opt: Any, f: Any = None, grads: Any = None) -> None:
        """Record the optimiser's last step; call it after every step.

        It returns at once unless the step, or the next one, is recorded.

        Parameters
        ----------
        opt : Optimizer
            Not modified.
        f : float, optional
            The objective.
        grads : array or nesting of arrays, optional
            The gradients of the step, to compute their norm. Without it, `grad_norm` of the
            optimiser, if the step computes it (with ``clip_norm=numpy.inf`` it does, at the cost
            of one read).

        Raises
        ------
        TypeError, ValueError
            If f is not a number, or grads are not dense arrays in the structure of the parameters.

        Examples
        --------
        >>> import numpy as np
        >>> import numadam as na
        >>> x = np.ones(3)
        >>> opt, history = na.SGD(x, lr=0.5), na.History()
        >>> opt.step(np.full(3, 2.0))
        >>> history.record(opt, grads=np.full(3, 2.0))
        >>> history["grad_norm"].round(3)
        array([3.464])
        """
        t = opt.t
        if not self.wants(t) or t in (0, self._last):  # the last: no step was taken
            return
        value = as_number(f)
        lr = opt.lr(t - 1) if callable(opt.lr) else opt.lr
        norm = gradient_norm(opt, grads) if t % self._every == 0 else math.nan
        self.see(
            t, value, norm, lr if isinstance(lr, float) else math.nan, parts_of(opt).backend.params
        )

    def __call__(self, intermediate_result: Any) -> None:
        """Record an iterate: SciPy's protocol of callbacks.

        Parameters
        ----------
        intermediate_result : scipy.optimize.OptimizeResult
            With x and fun; nit, grad_norm and lr where there are any. Iterates without nit are
            counted.
        """
        if not hasattr(intermediate_result, "x"):
            raise TypeError(
                "intermediate_result: expected a result with x and fun, got "
                f"{type(intermediate_result).__name__}. After a step of your own call "
                "history.record(opt, f, grads)."
            )
        get = intermediate_result.get
        t = get("nit", self._last + 1)
        norm, lr = get("grad_norm", math.nan), get("lr", math.nan)
        x = intermediate_result.x
        leaves = Tree(x).flatten(x, "x")
        self.see(t, as_number(get("fun")), norm, lr, leaves)

    @property
    def _last(self) -> int:
        """The t of the last record; -1 before any."""
        return int(self._values[-len(_STORED)]) if self._values else -1

    def wants(self, t: int) -> bool:
        """Whether `see` needs step t: it is recorded, or the one before a recorded step."""
        every = self._every
        return t % every == 0 or (self._norms and (t + 1) % every == 0)

    def gap(self, t: int) -> int:
        """Steps from t to the next one that `see` needs."""
        left = self._every - t % self._every
        return left - 1 if self._norms and left > 1 else left

    def see(
        self,
        t: int,
        f: float,
        grad_norm: float,
        lr: float,
        leaves: Sequence[Any],
        end: bool = False,
    ) -> None:
        """Record step t where it is due or the end; copy the parameters where the next one is."""
        if t < self._last:
            while self._last >= t:
                del self._values[-len(_STORED) :]
            self._copy_of = -1
        if (end or t % self._every == 0) and t != self._last:
            step = param = math.nan
            if self._norms:
                step, param = self._moved(t, leaves), norm_of(leaves)
            # one call: Ctrl-C comes before or after it
            self._values.extend((float(t), f, float(grad_norm), step, param, float(lr)))
        if self._norms and (t + 1) % self._every == 0 and self._copy_of != t:
            self._copy, self._copy_of = [leaf.copy() for leaf in leaves], t

    def _moved(self, t: int, leaves: Sequence[Any]) -> float:
        """The norm of the last step; NaN where the parameters before it are not known."""
        here, before = ([(type(x), x.shape) for x in arrays] for arrays in (leaves, self._copy))
        if self._copy_of != t - 1 or here != before:
            return math.nan
        with np.errstate(all="ignore"):  # the run's own numbers may be infinite
            return norm_of([old - leaf for old, leaf in zip(self._copy, leaves, strict=True)])

    def clear(self) -> None:
        """Delete all records."""
        self._values, self._copy, self._copy_of = array("d"), [], -1

    def __len__(self) -> int:
        return len(self._values) // len(_STORED)

    def __getitem__(self, name: str) -> np.ndarray:
        """A column as a new array."""
        if name == "ratio":
            with np.errstate(all="ignore"):
                ratio: np.ndarray = self["step_norm"] / self["param_norm"]
            return ratio
        if name not in _STORED:
            raise KeyError(f"{name!r}: the columns are {', '.join(SHOWN)}.")
        column = np.array(self._values[_STORED.index(name) :: len(_STORED)])
        return column.astype(np.int64) if name == "t" else column

    def to_dict(self) -> dict[str, np.ndarray]:
        """All columns as arrays by name: ``pandas.DataFrame(history.to_dict())``.

        Returns
        -------
        dict of str to array
            New arrays with an entry a record: int64 for ``t``, float64 for the others.

        Examples
        --------
        >>> list(History().to_dict())
        ['t', 'f', 'grad_norm', 'step_norm', 'param_norm', 'ratio', 'lr']
        """
        return {name: self[name] for name in SHOWN}

    def plot(self, columns: Sequence[str] | None = None, *, axes: Any = None) -> Any:
        """Draw columns over t with matplotlib, one panel each.

        Scales are logarithmic where all values are positive.

        Parameters
        ----------
        columns : sequence of str, optional
            Default: f, grad_norm, ratio and lr, as far as there are values.
        axes : sequence of matplotlib.axes.Axes, optional
            One a column, to draw into. Default: a new figure of pyplot.

        Returns
        -------
        array of matplotlib.axes.Axes
            ``axes[0].figure`` is the figure.

        Raises
        ------
        KeyError, ValueError
            For a column that is not there, too few axes, or a history without records.
        ImportError
            Without matplotlib.

        Examples
        --------
        >>> import numadam as na
        >>> history = na.History()
        >>> def fun(x):
        ...     return x @ x, 2 * x
        >>> res = na.minimize(fun, [3.0, -2.0], jac=True, callback=history)
        >>> axes = history.plot(["f", "lr"])
        >>> axes[0].get_ylabel(), axes[0].get_yscale()
        ('f', 'log')
        """
        table = self.to_dict()
        if not len(self):
            raise ValueError("plot: the history has no records yet.")
        if columns is None:
            usual = ("f", "grad_norm", "ratio", "lr")
            columns = [name for name in usual if np.isfinite(table[name]).any()]
        if isinstance(columns, str) or not len(columns):
            raise ValueError(
                f"columns: expected a list of names such as ['f', 'lr'], got {columns!r}."
            )
        for name in columns:
            if name not in table or name == "t":
                raise KeyError(f"{name!r}: the columns are {', '.join(table)}, drawn over t.")
        axes = _new_axes(len(columns)) if axes is None else np.atleast_1d(np.asarray(axes)).ravel()
        if len(axes) != len(columns):
            raise ValueError(f"axes: expected one a column, {len(columns)}, got {len(axes)}.")
        for name, ax in zip(columns, axes, strict=True):
            _panel(ax, table["t"], name, table[name])
        return axes

    def __getstate__(self) -> dict[str, Any]:
        # without the copy of the parameters: it is large, and made again at the next step
        return {**vars(self), "_copy": [], "_copy_of": -1}

    def __repr__(self) -> str:
        if not len(self):
            return f"History(every={self._every}, no records)"
        t, f = self["t"], self["f"]
        given = f[~np.isnan(f)]
        ends = f", f={given[0]:.3g}..{given[-1]:.3g}" if len(given) else ""
        records = formatting.count(len(self), "record")
        return f"History(every={self._every}, {records}, t={t[0]}..{t[-1]}{ends})"

    def _repr_html_(self) -> str:
        rows = []
        for name, column in self.to_dict().items():
            given = column[~np.isnan(column)]
            if len(given):
                ends = (given[0], given[-1], given.min(), given.max())
                rows.append((name, *map(formatting.number, ends)))
        head = ("", "first", "last", "least", "largest")
        return formatting.table(repr(self), rows, head)

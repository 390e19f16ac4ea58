"""Base class of all rules: the shared options, and `step`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays.checks import NO_GRADIENTS
from numadam._arrays.sparse import marked
from numadam._arrays.tree import refuse_replaced
from numadam._core.keywords import SharedAttributes
from numadam._core.options import DEFAULTS, HYPER_NAMES
from numadam._optimizer.base import with_options
from numadam._optimizer.checkpoint import Checkpointed
from numadam._optimizer.state import Snapshot, checked


class Optimizer(SharedAttributes, Checkpointed):
    r"""Base class of all rules. Use a subclass: `Adam`, `AdamW`, `RMSprop`, `SGD`, ...

    An optimiser keeps references to the parameter arrays and changes them in place. Every rule
    takes the keywords below. One step does all of it in one pass over memory, in this order:
    maximize, bounds' mask, norm and guard, clip_value, clip by norm, L2 decay, the rule, decoupled
    decay, bounds, average.

    Parameters
    ----------
    clip_norm : float > 0 or callable, optional
        All gradients together are multiplied by ``min(1, clip_norm / norm)``.
    clip_value : float > 0 or callable, optional
        Every element of the gradient is clipped to [-clip_value, clip_value].
    nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        Policy for non-finite gradients. "propagate": use them. "raise": raise FloatingPointError
        and change nothing. "skip": skip the step and increment `skipped`. If the rule squares
        gradients, a norm whose square is infinite (1.8e19 in float32, after clips) counts as
        non-finite: such an element would never move again.
    weight_decay : float >= 0 or callable, default 0.0 (AdamW: 0.01)
        Strength of the decay of the parameters towards 0.
    decoupled : bool
        Subtract ``lr * weight_decay * p`` separately from the step (False: L2 decay). True is the
        default of AdamW, NAdam, RAdam, AdaMax, AdaBelief and Lion. L2 adds ``weight_decay * p`` to
        the gradient.
    bounds : (lo, hi), sequence of (lo, hi), scipy.optimize.Bounds, or nesting, optional
        Box for the parameters. Two numbers for all elements, two arrays, or a pair of numbers for
        each element; None for an open side. Parameters outside are moved to the nearest bound when
        the optimiser is made. If a parameter is on a bound, a gradient component that points
        outward is set to 0 before norm and moments.
    ema : float in [0, 1) or callable, optional
        Decay of a running average of the parameters, read by `averaged`. Each step does
        ``average += (1 - ema) * (p - average)``. It starts as the parameters; with
        ``like="keras"`` as those after the first step.
    groups : mapping of str to mapping, optional
        Separate options for some arrays. An example: ``{"*.bias": {"weight_decay": 0}, "head":
        {"lr": 1e-4}, "emb": {"frozen": True}}``. Patterns (of `fnmatch`) match the dotted path of
        the array in its nesting, or of a container. A later one overrides an earlier one.
    sparse : {"lazy", "dense"}, optional
        Accept gradients of a few rows (`numadam.Rows`, CSR matrices). "lazy": only these rows of
        parameters and state change; "dense": the result is that of the dense gradient.
    maximize : bool, default False
        Maximise instead of minimise.
    like : str, optional
        Defaults and arithmetic of another library; keywords override them. One of "torch", "optax",
        "keras", "tf1", "sklearn" or "numpy". In float64 all but "torch" and "optax" repeat Adam
        and its AMSGrad bit for bit.
    clip_array_norm : float > 0 or callable, optional
        As `clip_norm`, for each array by itself.
    max_skips : int >= 1, optional
        Largest number of steps skipped in a row; the next one raises FloatingPointError.
    decay_times_lr : bool, default True
        False: the decoupled decay is ``weight_decay * p``, without lr.
    ema_warmup : bool, default False
        The average uses ``min(ema, (1 + t) / (10 + t))``, t at the step.
    ema_debias : bool, default False
        The average starts as 0 and is divided by ``1 - ema^t`` when read.
    count : {"step", "row"}, default "step"
        With ``sparse="lazy"``: the step count in bias corrections and powers of betas. "step":
        that of the optimiser, t. "row": each row (of the first axis) of each array has its own
        count, ``opt.state["row_counts"]``, so a row that is first updated late starts as in a new
        optimiser. Schedules use t, and a dense gradient steps all rows. "row" does not work with
        complex parameters or `comm`.
    complex_form : {"parts", "modulus"}, default "parts"
        Second moment of complex parameters. "parts": real and imaginary part are two real
        parameters (torch). "modulus": one second moment of the gradient's modulus for both (optax).
    comm : mpi4py.MPI.Intracomm, optional
        The parameters are this rank's block of a larger problem. `clip_norm`, `clip_array_norm`
        and `nonfinite` apply to all blocks together. Every rank makes the optimiser and takes each
        step, with the same structure, dtypes and options; shapes may differ, blocks may be empty.
        Ranks communicate only if one of these three options is used.

    Notes
    -----
    Most options may be set at any time (``opt.clip_norm = 0.5``): lr, the hyperparameters of the
    rule, `weight_decay`, `decoupled`, `decay_times_lr`, clips, `maximize`, `nonfinite`,
    `max_skips`, `bounds` and `groups`. An option that was not in use takes another loop, which is
    compiled at the assignment, never in a step (``opt.source`` shows it); where that fails or is
    interrupted, the option keeps its old value. What needs other state cannot change: `ema` from
    None to a number or back, a beta from a number to a schedule, a momentum from 0, frozen arrays,
    and the options that decide the form of the state. Numbers may be callables of the steps already
    taken (see `numadam.schedules`). With `comm` all ranks set the same option.

    The gradient of complex parameters is ``df/dRe(p) + 1j * df/dIm(p)``, the direction of
    steepest ascent, as torch gives it. JAX gives its conjugate.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> params = {"w": np.ones((2, 2)), "b": np.zeros(2)}
    >>> lr = na.schedules.Cosine(0.1, steps=100)
    >>> opt = na.Adam(params, lr=lr, clip_value=1.0)
    >>> opt.step({"w": np.full((2, 2), 5.0), "b": np.zeros(2)})
    >>> opt.t, params["w"].round(3).tolist()
    (1, [[0.9, 0.9], [0.9, 0.9]])
    >>> opt.state["m"]["w"].round(3).tolist()
    [[0.1, 0.1], [0.1, 0.1]]
    """

    def step(
        self,
        grads: Any = None,
        *,
        params: Any = None,
        lr: float | None = None,
        out: Any = None,
        rows: Any = None,
    ) -> None:
        """Take one step: update parameters and state in place.

        Everything is checked first, then one compiled call does the whole step and advances t
        last. An exception or Ctrl-C comes before the step or after it, never during it.

        Parameters
        ----------
        grads : array or nesting of arrays, optional
            Gradients in the structure, shapes and dtype of the parameters; not modified, and never
            converted: use ``g.astype(p.dtype)`` (`numadam.minimize` converts them). The gradient
            of a 0-d NumPy array may be a number, of Python or NumPy, and is rounded. Default:
            `grads` of the optimiser.
        params : array or nesting of arrays, optional
            Parameters to update in this call instead of the optimiser's own: same structure,
            shapes and dtype. No reference to them is kept.
        lr : float, optional
            Learning rate of this call only.
        out : array or nesting of arrays, optional
            Receives the update: the parameters would become ``p + out``. State and t change, the
            parameters do not.
        rows : array of bool or nesting of them, optional
            Only rows marked with True are stepped; needs ``sparse="lazy"``. A mask of shape
            ``p.shape[:1]`` for each array, or None for all of its rows. Short form of
            ``Rows(mask, grad[mask])``: the gradients outside of the mask are not read.

        Raises
        ------
        TypeError, ValueError
            Before anything is written; the message names the array and says what to do.
        numadam.mpi.RankError
            With `comm` and a norm, if another rank refuses the step. Nothing is written on any
            rank.

        Notes
        -----
        A step checks type, dtype, byte order, shape and memory layout of every array. Arrays to be
        written must be writable and overlap no other. A container in which an array was replaced
        raises an error. The structure, shapes and dtype of the parameters are fixed when the
        optimiser is made.

        NumPy arrays are checked anew at every step, also after ``setflags``, ``resize`` or
        ``a.shape = ...``. CuPy arrays are not checked again if nothing can have changed: the
        optimiser's own parameters; fewer than 16 other arrays with the address, shape, strides and
        dtype of the last step; 16 or more that are the same objects as at the last step. Their
        elements may change at any time, but do not assign to their ``a.shape`` between steps: that
        is not noticed (``a.reshape(...)`` makes a new object). After a refused step all arrays are
        checked.

        Steps of one optimiser from several threads wait for each other.
        """
        with self._lock:
            try:
                rate = self._settings.constant_rate
                if not self._tree.is_leaf or grads is None or rows is not None:
                    went = self._step(grads, params, lr, out, rows)
                else:  # one array: 0.1 to 2 us less than the other way
                    if lr is not None or rate is None:
                        rate = self._settings.rate(self.t, lr)
                    if params is None and out is None:
                        went = self._backend.step_one(grads, rate)
                    else:
                        self._refuse_elsewhere("params" if out is None else "out")
                        went = self._backend.step_one(grads, rate, params, out)
            except BaseException as error:
                if self._settings.exchange is not None:  # ranks wait for this one in the same step
                    self._settings.exchange.refuse(error)
                raise
            if not went:
                self._not_finite()

    def _step(self, grads: Any, params: Any, lr: float | None, out: Any, rows: Any) -> bool:
        """Take any step; False where the guard stopped it."""
        tree = self._tree
        if grads is not None:
            leaves = tree.flatten(grads, "grads")
        elif self._grads is None:
            raise ValueError(NO_GRADIENTS)
        else:
            leaves = self._grad_leaves
            refuse_replaced(tree, self._grads, leaves, "opt.grads")
        if params is None and not tree.is_leaf:
            refuse_replaced(tree, self._params, self._backend.params, "params")
        if rows is not None:
            leaves = self._marked(leaves, rows)
        rate = self._settings.constant_rate
        if lr is not None or rate is None:
            rate = self._settings.rate(self.t, lr)
        if params is None and out is None:
            return self._backend.step(leaves, rate)
        self._refuse_elsewhere("params" if out is None else "out")
        return self._backend.step(
            leaves,
            rate,
            None if params is None else tree.flatten(params, "params"),
            None if out is None else tree.flatten(out, "out"),
        )

    def _marked(self, grads: Sequence[Any], rows: Any) -> list[Any]:
        """The gradients as `Rows`, where `rows` has a mask for their array."""
        if self._settings.options["sparse"] != "lazy":
            raise ValueError(
                "rows: a step of some rows leaves the others as they are. Make the optimiser with "
                "sparse='lazy'."
            )
        tree = self._tree
        names = zip(tree.names("grads"), tree.names("rows"), strict=True)
        masks = tree.flatten(rows, "rows")
        return list(map(marked, grads, masks, names, self._backend.params))

    def reset(self) -> None:
        """Restart: state, counters and t are as in a new optimiser of these arrays.

        The average starts from the current parameters. lr, the other options and `grads` stay; so
        do the parameters, except that those outside of their bounds are moved to the nearest bound.
        To start from another point, write it into the parameters first.

        Schedules start again, since they are functions of t. One with its own state
        (`numadam.schedules.ReduceOnPlateau`) keeps it, because other optimisers may share it:
        assign a new one, ``opt.lr = ReduceOnPlateau(0.1)``.

        Examples
        --------
        >>> import numpy as np
        >>> import numadam as na
        >>> x = np.array([1.0, 2.0])
        >>> opt = na.Adam(x, lr=0.1)
        >>> opt.step(np.array([1.0, -1.0]))
        >>> x[...] = 5.0
        >>> opt.reset()
        >>> opt.t, opt.state["m"]
        (0, array([0., 0.]))
        """
        with self._lock:
            self._backend.reset()

    def snapshot(self, out: Snapshot | None = None) -> Snapshot:
        """Copy the current parameters, state, t and counters, for `restore`.

        Use it for line searches and epochs that fail. Steps of other threads wait, and Ctrl-C
        comes before the copy or after it.

        Parameters
        ----------
        out : snapshot, optional
            A snapshot of this optimiser to overwrite: then nothing is allocated.

        Returns
        -------
        snapshot
            `out`, or a new one, which is as large as parameters and state.

        Raises
        ------
        TypeError, ValueError
            If `out` is not a snapshot of this optimiser.

        Examples
        --------
        >>> import numpy as np
        >>> import numadam as na
        >>> x = np.array([1.0, 2.0])
        >>> opt = na.Adam(x, lr=0.1)
        >>> snap = opt.snapshot()
        >>> opt.step(np.array([1.0, -1.0]))
        >>> opt.restore(snap)
        >>> opt.t, x
        (0, array([1., 2.]))
        """
        with self._lock:
            self._refuse_new_params()
            if out is None:
                snapshot = Snapshot(self._backend)
            else:
                snapshot = checked(out, "out", self._backend)
            snapshot.save()
            return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Roll parameters, state, t and counters back to a snapshot; all of it or nothing.

        State includes moments, averages, the numbers of skipped steps and `grad_norm`. Nothing is
        allocated, and a snapshot can be restored any number of times.

        lr, hyperparameters and `grads` stay as they are now, so that a line search may try the
        same step with half of lr. Schedules go back with t, but one with its own state
        (`numadam.schedules.ReduceOnPlateau`) keeps it: copy that with `copy.deepcopy`.

        Parameters
        ----------
        snapshot : snapshot
            From `snapshot` of this optimiser.

        Raises
        ------
        TypeError, ValueError
            If it is not a snapshot of this optimiser (a copy is another optimiser), or an array of
            the parameters no longer fits. Then nothing is changed.

        Examples
        --------
        >>> import numpy as np
        >>> import numadam as na
        >>> x = np.array([3.0])
        >>> opt = na.SGD(x, lr=4.0)
        >>> snap, before = opt.snapshot(), x[0] ** 2
        >>> opt.step(2 * x)
        >>> while x[0] ** 2 >= before:
        ...     opt.restore(snap)
        ...     opt.lr /= 2
        ...     opt.step(2 * x)
        >>> opt.t, opt.lr, x
        (1, 0.5, array([0.]))
        """
        with self._lock:
            self._refuse_new_params()
            checked(snapshot, "snapshot", self._backend).restore()

    def _refuse_elsewhere(self, name: str) -> None:
        """Refuse `params` or `out` with options that follow the optimiser's own parameters."""
        options = self._settings.options
        if options["ema"] is not None:
            raise ValueError(
                f"{name}: ema follows the optimiser's own parameters, which such a step does not "
                "change. Make an optimiser without it."
            )
        if name == "out" and options["sparse"] == "lazy":
            raise ValueError(
                "out: sparse='lazy' gives a direction in some rows only. Make an optimiser with "
                "sparse='dense'."
            )

    def _not_finite(self) -> None:
        """Raise for a step that the guard stopped, where the options ask for that."""
        options, in_a_row = self._settings.options, 0
        if options["nonfinite"] == "skip":
            in_a_row = int(self._backend.counters["skipped_in_a_row"])
            if options["max_skips"] is None or in_a_row <= options["max_skips"]:
                return
        what, size = "NaN or infinite numbers", np.max(self.grad_norm)
        if math.isfinite(size):
            what = f"a norm whose square is infinite ({size:.3g}; clip_norm bounds it)"
        if options["nonfinite"] == "raise":
            raise FloatingPointError(
                f"grads: hold {what} at step {self.t + 1}; nothing was changed. "
                "nonfinite='skip' leaves such steps out."
            )
        raise FloatingPointError(
            f"grads: held {what} {in_a_row} times in a row "
            f"(max_skips={options['max_skips']}); the parameters are those of step {self.t}."
        )


with_options(Optimizer, DEFAULTS, HYPER_NAMES)

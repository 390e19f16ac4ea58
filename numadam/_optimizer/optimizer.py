"""The optimiser that all rules share: its options, and `step`."""

from __future__ import annotations

import math
from typing import Any

from numadam._core.hyper import LR
from numadam._optimizer.attributes import fixed, hyper
from numadam._optimizer.base import OptimizerBase
from numadam._settings.learning_rate import is_plain

__all__ = ["Optimizer", "fixed", "hyper"]


class Optimizer(OptimizerBase):
    r"""What all rules share. Use a subclass: `Adam`, `AdamW`, `RMSprop`, `SGD`, ...

    An optimiser keeps references to the parameter arrays and changes them in place. Every rule
    takes the keywords below. One step does all of it in one pass over memory, in this order:
    maximize, loss_scale, accumulate, bounds' mask, norm and guard, clip_value, clip by norm, L2
    decay, the rule, decoupled decay, bounds, average.

    Parameters
    ----------
    weight_decay : float or callable, default 0.0 (AdamW: 0.01)
        Pulls the parameters towards 0.
    decoupled : bool
        True: p loses ``lr * weight_decay * p`` besides the step (default of AdamW, NAdam, RAdam,
        AdaMax, AdaBelief, Lion). False: L2, ``weight_decay * p`` is added to the gradient.
    decay_times_lr : bool, default True
        False frees the decoupled decay of lr: p loses ``weight_decay * p``.
    maximize : bool, default False
        Go up instead of down.
    loss_scale : float or callable, default 1.0
        What the loss was multiplied by: the gradient is divided by it.
    clip_value : float or callable, optional
        Every element of the gradient is brought into [-clip_value, clip_value].
    clip_norm : float or callable, optional
        All gradients together are multiplied by ``min(1, clip_norm / norm)``.
    clip_array_norm : float or callable, optional
        As `clip_norm`, for each array by itself.
    accumulate : int, default 1
        Only every so many calls take a step, with the mean of their gradients; `flush` takes one
        with what there is, `discard` forgets it. t counts steps.
    nonfinite : {"propagate", "raise", "skip"}, default "propagate"
        What happens at a gradient with NaN or infinite elements: it is used as it is; a
        FloatingPointError, with nothing changed; or nothing but a count in `skipped`. With
        `accumulate` the mean is looked at.
    max_skips : int, optional
        As many steps in a row may be skipped; the next one raises FloatingPointError.
    bounds : pair (lo, hi), or nesting of pairs, optional
        Box for the parameters, numbers or arrays, None for an open side. Parameters outside are
        moved to the nearest bound when the optimiser is made. Where a parameter lies on a bound,
        a gradient that would push it out is taken as 0, before norm and moments.
    ema : float in [0, 1) or callable, optional
        Keeps a running average of the parameters, read by `averaged`:
        ``average += (1 - ema) * (p - average)``. It begins as the parameters.
    ema_warmup : bool, default False
        The average uses ``min(ema, (1 + t) / (10 + t))``, t at the step.
    ema_debias : bool, default False
        The average begins as 0 and is divided by ``1 - ema^t`` when read.
    groups : mapping of str to mapping, optional
        Options of their own for some arrays: ``{"*.bias": {"weight_decay": 0}, "head": {"lr":
        1e-4}, "emb": {"frozen": True}}``. Patterns (of `fnmatch`) are for the dotted path of the
        array in its nesting, or of a container. A later one goes before an earlier one.
    sparse : {"lazy", "dense"}, optional
        Takes gradients that touch a few rows (`numadam.Rows`, CSR matrices). "lazy": only these
        rows of parameters and state change; "dense": the numbers of the dense gradient.
    state_dtype : "bfloat16", optional
        How moments are stored: in half the memory of float32, with 8 digits in base 2. They are
        rounded by chance (a hash of number and step, so the bits are the same everywhere): to
        the nearest, a slow average could never fall. The arithmetic stays as it is.
    master : bool, default False
        Keeps a float32 copy of float16 or bfloat16 parameters, in which small steps add up.
    complex_form : {"parts", "modulus"}, default "parts"
        Complex parameters as pairs of real ones (torch), or whole: with a real second moment of
        the gradient's modulus (optax).
    like : {"torch", "keras", "tf1", "optax", "sklearn", "numpy"}, optional
        Defaults and arithmetic of that library. What is given as a keyword goes before it. The
        last two, "keras" and "tf1" repeat the plain rule and AMSGrad bit for bit.
    capturable : bool, default False
        For CuPy parameters: steps may be captured in a CUDA graph and replayed. t and lr lie on
        the GPU: `lr` is a 0-d CuPy array (one that was passed stays that array), and each replay
        reads it anew. Take one step before the capture.

    Notes
    -----
    `weight_decay`, `loss_scale`, `clip_value`, `clip_norm`, `clip_array_norm`, `ema` and the
    hyperparameters of the rule may be changed at any time (``opt.clip_norm = 0.5``), or be
    callables of the steps already taken (see `numadam.schedules`). What would need other arrays
    or another compiled loop is refused: make the optimiser with a value that stands for it, such
    as ``clip_norm=numpy.inf``.

    The gradient of complex parameters is ``df/dRe(p) + 1j * df/dIm(p)``, the direction of
    steepest ascent, as torch gives it. JAX gives its conjugate.

    Examples
    --------
    >>> import numpy as np
    >>> import numadam as na
    >>> params = {"w": np.ones((2, 2)), "b": np.zeros(2)}
    >>> opt = na.Adam(params, lr=na.schedules.Cosine(0.1, steps=100), clip_value=1.0)
    >>> opt.step({"w": np.full((2, 2), 5.0), "b": np.zeros(2)})
    >>> opt.t, params["w"].round(3).tolist()
    (1, [[0.9, 0.9], [0.9, 0.9]])
    >>> opt.state["m"]["w"].round(3).tolist()
    [[0.1, 0.1], [0.1, 0.1]]
    """

    weight_decay, loss_scale, clip_value = hyper(), hyper(), hyper()
    clip_norm, clip_array_norm, ema = hyper(), hyper(), hyper()
    decoupled, decay_times_lr, maximize, accumulate = fixed(), fixed(), fixed(), fixed()
    nonfinite, max_skips, bounds, groups = fixed(), fixed(), fixed(), fixed()
    ema_warmup, ema_debias, sparse, like = fixed(), fixed(), fixed(), fixed()
    state_dtype, master, complex_form, capturable = fixed(), fixed(), fixed(), fixed()

    def step(
        self,
        grads: Any = None,
        *,
        params: Any = None,
        lr: float | None = None,
        out: Any = None,
    ) -> None:
        """Take one step: update parameters and state in place.

        Everything is checked first, then one compiled call does the whole step and advances t
        last. An exception or Ctrl-C comes before the step or after it, never between.

        Parameters
        ----------
        grads : array or nesting of arrays, optional
            Gradients in the structure, shapes and dtype of the parameters; not modified. That of
            a 0-d NumPy array may be a number. Without it, `grads` of the optimiser is taken.
        params : array or nesting of arrays, optional
            Parameters to update in this call instead of the optimiser's own: same structure,
            shapes and dtype. Nothing of them is kept.
        lr : float, optional
            Learning rate of this call only.
        out : array or nesting of arrays, optional
            Gets the direction instead: the parameters would become ``p + out``. State and t
            move, the parameters stay.

        Raises
        ------
        TypeError, ValueError
            Before anything is written: the message names the array, says what it is and what to
            do.

        Notes
        -----
        Checked of every array: that it is an array of the right type, dtype and byte order, that
        what is written is writable, shape, memory layout, and that nothing that is written
        overlaps anything else. An entry of a container that was replaced is refused. Only the
        structure, shapes and dtype of the parameters are fixed when the optimiser is made, and
        the work arrays through which strided arrays go are kept.

        NumPy arrays are checked at every step, and nothing seen at an earlier one is trusted: an
        array changed behind the optimiser's back (``setflags``, ``resize``, ``a.shape = ...``)
        is checked as it is now. CuPy arrays are not checked again while nothing can have changed:
        the optimiser's own parameters; fewer than 16 other arrays whose address, shape, strides
        and dtype are those of the last step; 16 or more that are the same objects as at the last
        step. Their elements may change at any time, but between steps assign to no ``a.shape``:
        it is not noticed (``a.reshape(...)`` makes a new object). After a refused step all arrays
        are checked.

        Steps of one optimiser from several threads wait for each other.
        """
        with self._lock:
            tree = self._tree
            if grads is None:
                leaves = self._own_gradients()
            else:
                leaves = (grads,) if tree.is_leaf else tree.flatten(grads, "grads")
            if params is None and not tree.is_leaf:
                self._refuse_replaced(self._params, self._given, "params")
            rate = self._lr if lr is None and self._steady else self._rate(lr)
            if params is None and out is None:
                went = self._backend.step(leaves, rate)
            else:
                self._refuse_elsewhere("params" if out is None else "out")
                went = self._backend.step(
                    leaves,
                    rate,
                    None if params is None else tree.flatten(params, "params"),
                    None if out is None else tree.flatten(out, "out"),
                )
            if not went:
                self._not_finite()

    def flush(self) -> bool:
        """Take a step with the mean of the gradients that `accumulate` has added up so far.

        Returns whether there were any.
        """
        with self._lock:
            if not self._settings.plan.accumulate:
                raise ValueError(
                    "flush: nothing is added up; make the optimiser with accumulate=k."
                )
            if not int(self._backend.counters["calls"]):
                return False
            if not self._tree.is_leaf:
                self._refuse_replaced(self._params, self._given, "params")
            if not self._backend.flush(self._rate(None)):
                self._not_finite()
            return True

    def discard(self) -> None:
        """Forget the gradients that `accumulate` has added up so far."""
        with self._lock:
            self._backend.drop()

    def _rate(self, lr: Any) -> float:
        """The learning rate of this step; other schedules go into the control block."""
        settings = self._settings
        if settings.rate_array is not None:
            if lr is not None:
                raise ValueError("lr: with capturable=True it lies on the GPU; write opt.lr = x.")
            return math.nan  # the step reads the array
        if settings.has_schedules:
            settings.refresh(self.t)
        if lr is not None:
            if not is_plain(self._lr):
                raise ValueError("lr: this optimiser has a step size for each array; leave it out.")
            return LR.check(lr)
        if callable(self._lr):
            return LR.check(self._lr(self.t))
        return self._lr if is_plain(self._lr) else 0.0

    def _refuse_elsewhere(self, name: str) -> None:
        """Refuse other arrays where something follows the optimiser's own parameters."""
        for option in ("ema", "master"):
            if self._settings.options[option] not in (None, False):
                raise ValueError(
                    f"{name}: {option} follows the optimiser's own parameters, which such a step "
                    "does not change. Make an optimiser without it."
                )
        if name == "out" and self.accumulate > 1:
            raise ValueError(
                f"out: accumulate={self.accumulate} gives a direction at some calls only. Make an "
                "optimiser without it."
            )
        if name == "out" and self.sparse == "lazy":
            raise ValueError(
                "out: sparse='lazy' gives a direction in some rows only. Make an optimiser with "
                "sparse='dense'."
            )

    def _not_finite(self) -> None:
        """Say that the guard stopped the step, where the user wants to hear it."""
        options = self._settings.options
        if options["nonfinite"] == "raise":
            several = options["accumulate"] > 1
            forget = " opt.discard() forgets what was added up." if several else ""
            raise FloatingPointError(
                f"grads: hold NaN or infinite numbers at step {self.t + 1}; nothing was changed. "
                f"nonfinite='skip' leaves such steps out.{forget}"
            )
        in_a_row = self._backend.skipped[1]
        if options["max_skips"] is not None and in_a_row > options["max_skips"]:
            raise FloatingPointError(
                f"grads: held NaN or infinite numbers {in_a_row} times in a row "
                f"(max_skips={options['max_skips']}); the parameters are those of step {self.t}."
            )

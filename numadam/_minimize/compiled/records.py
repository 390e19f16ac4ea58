"""Memory that Python and the compiled minimisation share, declared once (see `_cpu.records`)."""

from __future__ import annotations

import numpy as np

from numadam._cpu.records import NUMBER, POINTER

REAL = np.dtype(np.float64)

#: State of one problem, and a call of its kernel, which takes some iterations.
SINGLE = np.dtype(
    [
        ("updates", NUMBER),  # element updates in a step
        ("numbers", NUMBER),  # real numbers of x
        ("group", NUMBER),  # row of the control block
        # the call at hand
        ("steps", NUMBER),  # iterations that it may take
        ("at_start", NUMBER),  # 1 as long as x0 has not been evaluated
        ("code", NUMBER),  # RUNNING, or the test that holds
        ("done", NUMBER),  # iterations of the run
        # the objective
        ("fun", POINTER),  # machine code of `evaluate`
        ("shape", POINTER),  # int64: shape of x
        ("number", POINTER),  # int64: number of the problem, 0
        ("f", POINTER),  # float64: as the objective returned it
        # the iterate
        ("f_before", REAL),  # f at the iterate tested last
        ("size", REAL),  # norm of the projected gradient there
        ("f_best", REAL),
        ("size_best", REAL),
        ("before", POINTER),  # x before the step, 0 if no test asks for it
        ("best", POINTER),  # best x, 0 if it is not tracked
        ("best_gradient", POINTER),
        # each step
        ("rates", POINTER),  # float64: lr of each step of the call
        ("rate_step", NUMBER),  # 0 if they are one number
        ("columns", POINTER),  # int64[changing]: columns of the control block with a schedule
        ("changes", POINTER),  # float64[steps, changing]: what they hold at each step
        ("changing", NUMBER),
        ("partials", POINTER),  # int64: partial sums of the gradient's norm, and its exponent
        # stop tests and history
        ("gtol", REAL),
        ("gtol_rel", REAL),
        ("first", REAL),  # norm of the first projected gradient, NaN before it is known
        ("limit", REAL),  # norm of the gradient at which the run stops
        ("ftol", REAL),
        ("xtol", REAL),
        ("history", POINTER),  # float64[capacity, 4]: iteration, f, gradient, lr
        ("every", NUMBER),  # iterations from one line of it to the next, 0: none
        ("kept", NUMBER),  # lines written
        ("capacity", NUMBER),
    ]
)

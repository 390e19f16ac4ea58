"""Memory that Python and the compiled minimisation of many problems share (see `_cpu.records`)."""

from __future__ import annotations

import numpy as np

from numadam._cpu.records import NUMBER, POINTER

#: State of a batch. A problem has a position, which changes when another one stops, and a number,
#: which is the user's. A call of the kernel takes some iterations of some blocks.
LANES = np.dtype(
    [
        ("problems", NUMBER),
        ("positions", NUMBER),  # of problems, the last of them not in use
        ("updates", NUMBER),  # element updates of one problem in a step
        ("numbers", NUMBER),  # real numbers of one problem
        ("elements", NUMBER),  # elements of one problem
        ("block", NUMBER),  # positions of a block, evaluated by one call and stepped as one array
        ("group", NUMBER),  # row of the control block
        # the call at hand
        ("first_block", NUMBER),
        ("end_block", NUMBER),
        ("last", NUMBER),  # 1 if its blocks are the batch's last ones, so that t advances
        ("steps", NUMBER),  # iterations that it may take
        ("done", NUMBER),  # iterations before it
        ("table_steps", NUMBER),  # iterations whose scalars are computed at a time
        ("at_start", NUMBER),  # 1 as long as x0 has not been evaluated
        ("taken", NUMBER),  # iterations by which t has advanced
        ("failed", NUMBER),  # 1 if the objective raised
        # the objective
        ("fun", POINTER),  # machine code of `evaluate`
        ("shape", POINTER),  # int64: shape of one problem
        # each position
        ("values", POINTER),  # float64[VALUES, positions], see VALUE
        ("tests", POINTER),  # int64[positions]: RUNNING, or the test that holds
        ("order", POINTER),  # int64[positions]: number of the problem
        ("own_lr", POINTER),  # float64[positions], 0 if they share a learning rate
        ("before", POINTER),  # x before the step, 0 if no test asks for it
        ("best", POINTER),  # best x
        ("best_g", POINTER),  # its gradient
        # each problem, by its number; written when it stops
        ("codes", POINTER),  # int64[problems]: RUNNING, or the test that holds
        ("nit", POINTER),  # int64[problems]: iterations taken; of running ones at each call
        ("result", POINTER),  # float64[RESULTS, problems]: the first ones of VALUE
        ("rows", POINTER),  # int64[4]: addresses of the last x, best x, its gradient, average
        # each block
        ("live", POINTER),  # int64[blocks]: problems that still run; they are the first ones
        ("scratch", POINTER),  # float64[blocks, ...]: see `make_own_scalars`
        # each step
        ("rates", POINTER),  # float64: lr of each step of the call
        ("columns", POINTER),  # int64[changing]: columns of the control block with a schedule
        ("changes", POINTER),  # float64[steps, changing]: what they hold at each step
        ("changing", NUMBER),
        ("scalars", POINTER),  # float64[table_steps, width]
        ("products", POINTER),  # float64[table_steps + 1, n]: of each step, see `_core.products`
        ("tolerances", POINTER),  # float64[4]: gtol, ftol, xtol, gtol_rel
    ]
)

#: Rows of `values`: f; the best f, and the norm of the projected gradient there; that norm at x,
#: at the start, and where the problem stops; f before the step. The first ones are results.
VALUE_F, VALUE_BEST, VALUE_BEST_NORM, VALUE_NORM, VALUE_FIRST, VALUE_LIMIT, VALUE_BEFORE = range(7)
VALUES, RESULTS = 7, 5

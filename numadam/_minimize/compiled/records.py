"""Memory that Python and the compiled minimisation share, declared once (see `_cpu.records`)."""

from __future__ import annotations

import numpy as np

from numadam._cpu.records import NUMBER, POINTER

#: State of a batch: problems side by side under one objective, one problem a row of x. They are
#: worked on in blocks of `lanes` problems. A call of the kernel takes some iterations of some
#: blocks.
BATCH = np.dtype(
    [
        ("problems", NUMBER),
        ("updates", NUMBER),  # element updates of one problem in a step
        ("numbers", NUMBER),  # real numbers of one problem
        ("lanes", NUMBER),  # problems of a block, evaluated by one call and stepped as one array
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
        # each problem, in the order of their places in x
        ("values", POINTER),  # float64[4, problems], see F
        ("codes", POINTER),  # int64[problems]: RUNNING, or the test that holds
        ("nit", POINTER),  # int64[problems]: iterations taken
        ("order", POINTER),  # int64[problems]: number of the problem, as the user counts
        ("own_lr", POINTER),  # float64[problems], 0 if they share a learning rate
        ("before", POINTER),  # x before the step, 0 if no test asks for it
        ("best", POINTER),  # best x, 0 if it is not tracked
        # each block
        ("live", POINTER),  # int64[blocks]: problems that still run; they are the first ones
        ("scratch", POINTER),  # float64[blocks, ...]: see `make_own_scalars`
        # each step
        ("rates", POINTER),  # float64: lr of each step of the call
        ("columns", POINTER),  # int64[changing]: columns of the control block with a schedule
        ("changes", POINTER),  # float64[steps, changing]: what they hold at each step
        ("changing", NUMBER),
        ("scalars", POINTER),  # float64[table_steps, width]
        ("products", POINTER),  # float64[table_steps + 1, n]: running products before each step
        ("factors", POINTER),  # float64[3, 1]: clip factors that change nothing
        # stop tests and history
        ("tolerances", POINTER),  # float64[3]: gtol, ftol, xtol
        ("history", POINTER),  # float64[capacity, 4]: iteration, f, gradient, lr
        ("every", NUMBER),  # iterations from one line of it to the next, 0: none
        ("kept", NUMBER),  # lines written
        ("capacity", NUMBER),
    ]
)

#: Rows of `values`: f, f before the step, largest component of the projected gradient, best f.
F, F_BEFORE, LARGEST, F_BEST = range(4)

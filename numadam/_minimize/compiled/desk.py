"""The desk of a compiled minimisation: numbers and addresses that its loop reads and writes."""

from __future__ import annotations

#: Problems, turns of the loop and real numbers of one, problems side by side; the blocks of this
#: call; iterations that it may take, those taken before, and whether x0 is still to be looked at.
(PROBLEMS, TURNS, NUMBERS, LANES, FROM, TO, STEPS, DONE, FIRST) = range(9)
#: Addresses of the objective, its shape, tolerances, and what there is of each problem: `VALUES`
#: rows, test, iterations, number.
(FUN, DIMS, TOLERANCES, VALUES, CODE, NIT, ORDER) = range(9, 16)
#: Steps whose scalars are formed at a time; whether this call's blocks are the last, so that t
#: advances; the steps by which it did.
(INNER, LAST, TAKEN) = range(35, 38)
#: Addresses of: live problems of each block, scalars of each step, running products after each
#: step, lr of each step, changing columns of the control block and their values at each step and
#: their number, x before the step, best x, lr of each problem, scratch of each block.
(LIVE, ROWS, PRODUCTS, RATES, COLUMNS, CHANGING, COUNT, BEFORE, BEST, OWN_LR, SCRATCH) = range(
    17, 28
)
#: Address of the history, every so many iterations, those kept; whether a block failed; clip
#: factors that change nothing; the control row.
(HISTORY, EVERY, KEPT, CAPACITY, FAILED, FACTORS, ROW) = range(28, 35)
DESK = 40


#: Rows of what there is of each problem.
F, F_BEFORE, LARGEST, F_BEST = range(4)

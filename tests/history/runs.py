"""A run of Adam that is recorded."""

import numpy as np

import numadam as na

START = np.array([-1.2, 1.0])


def fun(x):
    return np.sum((x - 1) ** 2), 2 * (x - 1)


def recorded(steps, every=1, norms=True, **options):
    history, x = na.History(every, norms=norms), START.copy()
    opt = na.Adam(x, **options)
    for _ in range(steps):
        f, grads = fun(x)
        opt.step(grads)
        history.record(opt, f, grads)
    return history, x

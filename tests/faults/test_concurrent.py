"""Eight threads at once: one optimiser, several, functions, minimisers.

`bash .ci/run pythons` runs this file once more with pytest-run-parallel, each test in eight threads
and with nothing compiled beforehand.
"""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import numadam as na


def at_once(*works):
    """Results of calls that begin together, each in a thread of its own."""
    barrier = threading.Barrier(len(works))

    def run(work):
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def whole(saved):
    """Whether a state is one of a run of gradients of 1: m = 1 - 0.9^t in every element."""
    m = np.asarray(saved["m"])
    return bool(np.all(m == m[0])) and abs(m[0] - (1 - 0.9 ** int(saved["t"]))) < 1e-9


def test_steps_of_one_optimiser_and_copies_of_it():
    size, each = 5000, 60
    p, g = np.zeros(size), np.ones(size)
    opt = na.Adam(p, lr=0.01)

    def step():
        for _ in range(each):
            opt.step(g)

    def change():
        for k in range(each):
            opt.lr = 0.02 if k % 2 else 0.01
            opt.eps = 1e-8
        return True

    pictures = {
        "copy": lambda: opt.state.copy(),
        "deepcopy": lambda: dict(copy.deepcopy(opt).state),
        "pickle": lambda: dict(pickle.loads(pickle.dumps(opt)).state),
    }

    def watch(take):
        return lambda: [whole(pictures[take]()) for _ in range(each // 4)]

    found = at_once(*[step] * 4, change, *map(watch, pictures))
    assert opt.t == 4 * each
    assert whole(opt.state)
    assert bool(np.all(p == p[0]))
    assert all(all(seen) for seen in found[5:]), found[5:]


def test_one_dict_of_parameters_in_two_optimisers_and_many_threads():
    """Two optimisers of the same arrays: each step is whole, whatever their order."""
    p = {"w": np.zeros(3000), "b": np.zeros(10)}
    ones = {name: np.ones_like(array) for name, array in p.items()}
    first, second = na.SGD(p, lr=1.0), na.SGD(p, lr=0.5)

    def step(opt):
        return lambda: [opt.step(ones) for _ in range(40)]

    at_once(step(first), step(first), lambda: [first.state.copy() for _ in range(40)])
    at_once(step(second), step(second))
    assert (first.t, second.t) == (80, 80)
    assert np.all(p["w"] == -120)
    assert np.all(p["b"] == -120)

"""Runs with many options at once: how to set one up, and what it has to give."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import tempfile
import threading
from pathlib import Path

import numpy as np

import numadam as na
from numadam._cpu.loop import PARALLEL
from tests.reference_options import Steps
from tests.trees import tree_leaves, tree_map


def shorten_parts(opt, size):
    """Cut the elements into parts of this size: many parts, ends at odd places."""
    backend = opt._backend
    backend.memory.cut(size)
    backend.step_one = backend.compiled.make_one()


def compiled_step(opt):
    """The step of an optimiser on the CPU."""
    return opt._backend.compiled


def uses_parallel(opt):
    return compiled_step(opt).kernel().form == PARALLEL


def tree_of(seed, dtype="float64"):
    """Nested arrays: C and F order, strided, of 0 axes, and without elements."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    return {
        "w": [draw(3, 4), np.asfortranarray(draw(5, 3))],
        "0-d": draw(1).reshape(()),
        "empty": draw(0, 3),
        "strided": draw(10)[::2],
    }


#: all at once: one compiled combination for each dtype and kind of decay
SINK = {
    "lr": {"w": [0.05, 0.02], "0-d": 0.1, "empty": 0.1, "strided": np.linspace(0.0, 0.1, 5)},
    "weight_decay": 0.1,
    "decoupled": True,
    "clip_value": 1.5,
    "clip_norm": 2.0,
    "nonfinite": "skip",
    "bounds": {
        "w": [(-0.5, 1.0), (None, None)],
        "0-d": (None, 0.25),
        "empty": (0.0, 1.0),
        "strided": (np.array([-1.0, -0.5, -np.inf, 0.0, 0.1]), 0.8),
    },
    "ema": 0.8,
}


def zero(taken):
    return 0.0


def unlimited(taken):
    return math.inf


def neutral(params, **options):
    """The compiled combination of SINK, but no option does anything until it is given."""
    every = {
        "clip_value": unlimited,
        "lr": tree_map(lambda a: np.full_like(a, 0.1), params),
        "bounds": tree_map(lambda a: (np.full_like(a, -np.inf), None), params),
        "weight_decay": zero,  # what is callable may become anything
        "clip_norm": math.inf,
        "ema": 0.5,
    }
    return {**every, **options}


def reference_of(params, **options):
    """The reference for nested parameters: what is nested becomes a list."""
    options = {key: value for key, value in options.items() if key not in ("nonfinite", "groups")}
    options["decoupled"] = options.get("decoupled", False)
    if isinstance(options.get("lr"), dict):
        options["lr"] = [*options["lr"].pop("w"), *options["lr"].values()]
    if isinstance(options.get("bounds"), dict):
        options["bounds"] = [*options["bounds"].pop("w"), *options["bounds"].values()]
    return Steps(tree_leaves(params), **options)


def assert_follows(opt, ref, rtol=1e-12, atol=1e-13):
    """Parameters, state and average of an Adam are those of the reference."""
    names = {"m": ref.m, "v": ref.v}
    got = {name: tree_leaves(opt.state[name]) for name in names}
    names["p"], got["p"] = ref.p, tree_leaves(opt.params)
    if opt.ema is not None:
        names["average"], got["average"] = ref.averaged, tree_leaves(opt.averaged)
    for name, expected in names.items():
        for one, other in zip(got[name], expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=rtol, atol=atol, err_msg=name)
    assert opt.t == ref.t


def train(params, options, calls, *, check=None):
    """An Adam after some calls, beside its reference."""
    ref = reference_of(params, **copy.deepcopy(options))
    opt = na.Adam(params, **options)
    for grads in calls:
        opt.step(grads)
        ref.step(tree_leaves(grads))
        if check is not None:
            check(opt, ref)
    return opt, ref


def digest(opt):
    """All that an optimiser holds, in 16 letters."""
    words = hashlib.sha256()
    for tree in (opt.params, *(opt.state[name] for name in opt.state)):
        for leaf in tree_leaves(tree):
            words.update(np.ascontiguousarray(leaf).tobytes())
    return words.hexdigest()[:16]


@contextlib.contextmanager
def meanwhile(work):
    """Another thread does this again and again, until the block ends."""
    stop = threading.Event()

    def repeat():
        while not stop.is_set():
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- files ----------------------------------------------------------------------------------------


def loaded(opt, **options):
    """A new optimiser from a file of this one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        opt.save(path)
        return na.load(path, **options)


def load_into(other, opt):
    """The other optimiser, with all of a file of this one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        opt.save(path)
        other.load(path)
    return other

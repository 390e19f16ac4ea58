"""A Hypothesis state machine: any calls of an optimiser in any order, beside a plain model.

The model is `tests.reference_options.Steps`, NumPy in float64. Two compiled combinations: `PLAIN`,
Adam with its defaults, and `FULL`, with everything that wraps a step. After each call the
parameters, the state, t and the average are those of the model; after a refused call they are the
same bits as before it.
A failure is shrunk to the shortest calls that show it.
"""

from __future__ import annotations

import copy
import os
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import numadam as na
from tests import extras
from tests.bits import assert_same_bits
from tests.reference_options import Steps
from tests.runs import SINK, assert_follows, digest, reference_of, tree_of
from tests.trees import BAD, LAYOUTS, assert_unchanged, lay, snapshot, tree_leaves, tree_map

#: gradients that are refused; a CuPy array where CuPy is installed
REFUSED = sorted(name for name, bad in BAD.items() if "grads" in bad[3])
if extras.lacking("cuda", "cupy"):
    REFUSED.remove("cupy")
PLAIN = {"lr": 0.05}
#: of the compiled combination of `SINK`
FULL = {**SINK, "clip_value": None, "clip_norm": 1e5, "nonfinite": "raise"}

#: hyperparameters that either may change, and values of them
CHANGES = {
    "beta1": [0.0, 0.5, 0.9],
    "beta2": [0.5, 0.99, 0.999],
    "eps": [1e-8, 1e-3],
    "clip_value": [0.5, 2.0, 1e6],
}
ONLY_PLAIN = {"lr": [0.0, 0.01, 0.1]}
ONLY_FULL = {"weight_decay": [0.0, 0.1], "clip_norm": [0.2, 3.0, 1e5], "ema": [0.0, 0.6, 0.99]}

COPIES = {
    "copy": copy.deepcopy,
    "pickle": lambda opt: pickle.loads(pickle.dumps(opt)),
    "oldest pickle": lambda opt: pickle.loads(pickle.dumps(opt, 2)),
}

seeds = st.integers(0, 10**6)


class Model(Steps):
    """The reference, with what may be done to an optimiser between its steps."""

    def step(self, grads):
        # a beta that is a number enters as a power: one that was changed counts from the start
        self.product1, self.product2 = (self._of(b) ** self.t for b in ("beta1", "beta2"))
        super().step(grads)

    def change(self, name, value):
        self._options[name] = value

    def elsewhere(self, params, grads):
        """A step that leaves the parameters alone; where they would have gone."""
        mine, self.p = self.p, [np.array(x, np.float64) for x in params]
        self.step(grads)
        theirs, self.p = self.p, mine
        return theirs

    def forget(self):
        """Begin anew where the parameters are."""
        self.m, self.v = ([np.zeros_like(x) for x in self.p] for _ in range(2))
        self.average, self.t = [x.copy() for x in self.p], 0

    def state(self):
        return copy.deepcopy((self.m, self.v, self.average, self.t))

    def load(self, state):
        self.m, self.v, self.average, self.t = copy.deepcopy(state)


class AnyCalls(RuleBasedStateMachine):
    """Calls of one optimiser."""

    @initialize(seed=seeds, full=st.booleans())
    def make(self, seed, full):
        self.full = full
        self.params = tree_of(seed)
        options = copy.deepcopy(FULL if full else PLAIN)
        reference = reference_of(self.params, **copy.deepcopy(options))
        self.model = Model(reference.p, **reference._options)
        self.opt = na.Adam(self.params, **options)
        self.saved = self.file = self.snap = None
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    # --- steps -----------------------------------------------------------------------------------

    def gradients(self, seed, layout="C"):
        scale = 10.0 ** (seed % 5 - 2)
        return tree_map(lambda a: lay(np.asarray(scale * a), layout), tree_of(seed))

    @rule(seed=seeds, layout=st.sampled_from(sorted(LAYOUTS)))
    def step(self, seed, layout):
        grads = self.gradients(seed, layout)
        kept = copy.deepcopy(grads)
        self.opt.step(grads)
        self.model.step(tree_leaves(grads))
        for one, same in zip(tree_leaves(grads), tree_leaves(kept), strict=True):
            assert_same_bits(one, same)

    @rule(seed=seeds, whole=st.booleans())
    def step_of_buffers(self, seed, whole):
        grads = self.gradients(seed)
        if whole:
            self.opt.grads = grads
        else:
            for buffer, g in zip(tree_leaves(self.opt.grads), tree_leaves(grads), strict=True):
                buffer[...] = g
        self.opt.step()
        self.model.step(tree_leaves(grads))

    @precondition(lambda self: not self.full)
    @rule(seed=seeds, lr=st.sampled_from([0.0, 0.3]))
    def step_at_a_rate(self, seed, lr):
        grads, before = self.gradients(seed), self.model._options["lr"]
        self.opt.step(grads, lr=lr)
        self.model.change("lr", lr)
        self.model.step(tree_leaves(grads))
        self.model.change("lr", before)

    @precondition(lambda self: not self.full)
    @rule(seed=seeds, into=st.booleans())
    def step_elsewhere(self, seed, into):
        """With `out` the direction is written, with `params` other arrays are moved."""
        grads, other = self.gradients(seed), tree_of(seed + 1)
        start = self.model.p if into else tree_leaves(copy.deepcopy(other))
        self.opt.step(grads, **{"out" if into else "params": other})
        ends = self.model.elsewhere(start, tree_leaves(grads))
        for got, end, begin in zip(tree_leaves(other), ends, start, strict=True):
            moved = end - begin if into else end
            np.testing.assert_allclose(got, moved, rtol=1e-9, atol=1e-9)

    # --- refusals --------------------------------------------------------------------------------

    @rule(case=st.sampled_from(REFUSED))
    def refused_step(self, case):
        bad = BAD[case][0]
        grads = self.gradients(1)
        before = snapshot(self.opt, self.params)
        grads["w"][1] = bad(np.ones(4))  # where the type is right the shape is not
        with pytest.raises((TypeError, ValueError)):
            self.opt.step(grads)
        assert_unchanged(before, snapshot(self.opt, self.params))

    @rule()
    def overlapping_step(self):
        before = snapshot(self.opt, self.params)
        with pytest.raises(ValueError, match="shares memory"):
            self.opt.step(self.params)
        assert_unchanged(before, snapshot(self.opt, self.params))

    @precondition(lambda self: self.full)
    @rule(seed=seeds, value=st.sampled_from([np.nan, np.inf, -np.inf]))
    def step_that_is_not_finite(self, seed, value):
        grads = self.gradients(seed)
        grads["w"][1][seed % 5] = value  # no bounds there, which would take an infinite one
        before = digest_of_run(self.opt)
        with pytest.raises(FloatingPointError):
            self.opt.step(grads)
        assert digest_of_run(self.opt) == before

    @rule(name=st.sampled_from(sorted(CHANGES)), value=st.sampled_from([-1.0, np.nan, "x", None]))
    def refused_change(self, name, value):
        if value is None and name == "clip_value":
            return
        before = snapshot(self.opt, self.params)
        with pytest.raises((TypeError, ValueError)):
            setattr(self.opt, name, value)
        assert_unchanged(before, snapshot(self.opt, self.params))

    # --- changes ---------------------------------------------------------------------------------

    @rule(data=st.data())
    def change(self, data):
        choices = {**CHANGES, **(ONLY_FULL if self.full else ONLY_PLAIN)}
        name = data.draw(st.sampled_from(sorted(choices)))
        value = data.draw(st.sampled_from(choices[name]))
        setattr(self.opt, name, value)
        assert getattr(self.opt, name) == value
        self.model.change(name, value)

    @rule(t=st.sampled_from([0, 1, 7, 1000]))
    def set_t(self, t):
        self.opt.t = t
        self.model.t = t

    @rule()
    def reset(self):
        self.opt.reset()
        self.model.forget()

    @rule()
    def keep_state(self):
        self.saved = self.opt.state.copy(), self.model.state()

    @precondition(lambda self: self.saved is not None)
    @rule()
    def state_again(self):
        self.opt.state = self.saved[0]
        self.model.load(self.saved[1])

    @rule(seed=seeds, name=st.sampled_from(["m", "v"]))
    def set_one_state(self, seed, name):
        value = tree_map(lambda a: np.array(abs(a)), tree_of(seed))
        self.opt.state[name] = value
        setattr(self.model, name, [np.array(a, np.float64) for a in tree_leaves(value)])

    @rule(seed=seeds, name=st.sampled_from(["m", "v"]))
    def refused_state(self, seed, name):
        value = tree_of(seed)
        value["strided"] = np.ones(6)
        before = snapshot(self.opt, self.params)
        with pytest.raises(ValueError, match="expected shape"):
            self.opt.state[name] = value
        assert_unchanged(before, snapshot(self.opt, self.params))

    @rule()
    def snapshot(self):
        taken = self.opt.snapshot(None if self.snap is None else self.snap[0])
        self.snap = taken, copy.deepcopy(self.model.p), self.model.state()

    @precondition(lambda self: self.snap is not None)
    @rule()
    def restore(self):
        taken, p, state = self.snap
        self.opt.restore(taken)
        self.model.p = copy.deepcopy(p)
        self.model.load(state)

    # --- files -----------------------------------------------------------------------------------

    @rule()
    def save(self):
        self.opt.save(Path(self.folder.name) / "run.npz")
        self.file = copy.deepcopy(self.model)

    @precondition(lambda self: self.file is not None)
    @rule(new=st.booleans())
    def load(self, new):
        path = Path(self.folder.name) / "run.npz"
        if new:
            self.opt, self.snap = na.load(path), None  # a snapshot is of one optimiser
            self.params = self.opt.params
        else:
            self.opt.load(path)
        self.model = copy.deepcopy(self.file)

    @precondition(lambda self: self.file is not None)
    @rule(place=st.integers(0, 10**6))
    def refused_load(self, place):
        """A file that ends early."""
        content = (Path(self.folder.name) / "run.npz").read_bytes()
        path = Path(self.folder.name) / "damaged.npz"
        path.write_bytes(content[: place % len(content)])
        before = snapshot(self.opt, self.params)
        with pytest.raises(na.CheckpointError):
            self.opt.load(path)
        assert_unchanged(before, snapshot(self.opt, self.params))

    # --- copies ----------------------------------------------------------------------------------

    @rule(how=st.sampled_from(sorted(COPIES)), seed=seeds)
    def go_on_with_a_copy(self, how, seed):
        """Steps of the one that is left do not reach the copy."""
        left, self.opt, self.snap = self.opt, COPIES[how](self.opt), None
        assert repr(self.opt) == repr(left)
        assert digest(self.opt) == digest(left)
        self.params = self.opt.params
        left.step(self.gradients(seed))

    @rule(seed=seeds)
    def fork(self, seed):
        """A child's step has the bits of the parent's, and does not reach the parent."""
        grads, before = self.gradients(seed), digest_of_run(self.opt)
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            child = os.fork()
        if child == 0:
            try:
                self.opt.step(grads)
                os.write(write, digest_of_run(self.opt).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            of_child = pipe.read()
        os.waitpid(child, 0)
        assert digest_of_run(self.opt) == before
        self.opt.step(grads)
        self.model.step(tree_leaves(grads))
        assert digest_of_run(self.opt) == of_child

    @invariant()
    def follows_the_model(self):
        assert_follows(self.opt, self.model, rtol=1e-9, atol=1e-9)
        for mine, given in zip(tree_leaves(self.opt.params), tree_leaves(self.params), strict=True):
            assert mine is given


def digest_of_run(opt):
    """Parameters, moments and t, without gradients that are being added up."""
    state = opt.state
    kept = [opt.params, *(state[name] for name in ("m", "v"))]
    return repr([opt.t, *(leaf.tobytes() for tree in kept for leaf in tree_leaves(tree))])


@extras.fork
def test_any_order_of_calls():
    how = settings(max_examples=50, stateful_step_count=25, derandomize=True)
    run_state_machine_as_test(AnyCalls, settings=settings(how, deadline=None, database=None))

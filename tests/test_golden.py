"""The recorded trajectories of torch, optax, Keras and TF1 that these rules can repeat.

Every recorded case has one row below: the call that repeats it, or the reason why none does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from golden import load

import numadam as na

CASES = {(case.name, case.dtype.name): case for case in load()}


class Runs(NamedTuple):
    """A call that repeats the case, and how far apart the two may be.

    Distances are relative to the largest |p| that the element had so far: near zero a parameter
    is a small difference of large ones. In float32 the bound is 4 units of eps, for the other
    order of operations (measured: 0 to 2.1). In float64 it is 1e-12 for the first `exact` steps.
    """

    make: object
    lr: object = 0.01
    float64: float = 1e-12
    exact: int = 40


class Later(NamedTuple):
    """Why this version cannot repeat the case."""

    reason: str


def adam(**options):
    return lambda p, lr: na.Adam(p, lr=lr, **options)


def rmsprop(**options):
    return lambda p, lr: na.RMSprop(p, lr=lr, **options)


def sgd(**options):
    return lambda p, lr: na.SGD(p, lr=lr, **options)


def _correction(beta1_power, beta2_power):
    return math.sqrt(1 - beta2_power) / (1 - beta1_power)


def keras_lr(taken):
    """Keras takes the powers of betas that were rounded to float32, 1 - beta2 not (float64).

    A step size that undoes numadam's own corrections shows that nothing else is different.
    """
    t = taken + 1
    powers = [float(np.float32(beta)) ** t for beta in (0.9, 0.999)]
    return 0.01 * _correction(*powers) / _correction(0.9**t, 0.999**t)


def keras_lr32(taken):
    """As `keras_lr`, with the powers and their differences from 1 in float32 too."""
    t = np.float32(taken + 1)
    c1, c2 = (np.float32(1) - np.float32(beta) ** t for beta in (0.9, 0.999))
    return 0.01 * math.sqrt(float(c2)) / float(c1) / _correction(0.9 ** int(t), 0.999 ** int(t))


TF1 = {name: float(np.float32(x)) for name, x in (("beta1", 0.9), ("beta2", 0.999), ("eps", 1e-8))}


def tf1_lr(taken):
    """TF1 rounds lr to float32 and carries the powers of the betas as float32 products."""
    powers = np.float32([0.9, 0.999])
    for _ in range(taken):
        powers = powers * np.float32([0.9, 0.999])
    ours = (TF1["beta1"] ** (taken + 1), TF1["beta2"] ** (taken + 1))
    return float(np.float32(0.01)) * _correction(*map(float, powers)) / _correction(*ours)


def warmup_cosine(taken):
    """Optax's schedule, which it evaluates in float32 for float64 parameters too.

    10 steps up to 0.01, then half a cosine down to 1e-4 at step 40.
    """
    one, top, low = np.float32(1), np.float32(0.01), np.float32(0.01)
    if taken < 10:
        return float(-top * (one - np.float32(taken) / np.float32(10)) + top)
    angle = np.float32(math.pi) * np.float32(taken - 10) / np.float32(30)
    cosine = np.float32(0.5) * (one + np.cos(angle))
    return float(top * (np.float32(1 - 0.01) * cosine + low))


DECAY = Later("weight decay (L2 and decoupled) is not offered yet")
CLIP = Later("clipping is not offered yet")
RULE = Later("another rule than Adam, RMSprop and SGD: not offered yet")
NESTEROV = Later("Adam with Nesterov's look ahead is not offered yet")
ROOT_EPS = Later("eps (1e-8, 1e-7) inside the root, sqrt(v + eps): not offered yet")
CENTERED = Later("RMSprop centered or with momentum is not offered yet")

ROWS = {
    "torch Adam eps=1e-08": Runs(adam()),
    "torch Adam eps=0.001": Runs(adam(eps=1e-3)),
    "torch Adam amsgrad=True": Runs(adam(amsgrad=True)),
    "torch Adam weight_decay=0.1": DECAY,
    "torch Adam weight_decay=0.1 amsgrad=True": DECAY,
    "torch Adam maximize=True": Later("maximize is not offered yet; step(-g) is the same"),
    "torch AdamW weight_decay=0.1": DECAY,
    "torch AdamW weight_decay=0.1 amsgrad=True": DECAY,
    "torch NAdam": NESTEROV,
    "torch RAdam": RULE,
    "torch Adamax": RULE,
    "torch RMSprop alpha=0.999": Runs(rmsprop(beta2=0.999)),
    "torch RMSprop alpha=0.999 momentum=0.9": CENTERED,
    "torch RMSprop alpha=0.999 centered=True": CENTERED,
    "torch SGD": Runs(sgd()),
    "torch SGD momentum=0.9": Runs(sgd(momentum=0.9)),
    "torch SGD momentum=0.9 nesterov=True": Runs(sgd(momentum=0.9, nesterov=True)),
    "torch SGD momentum=0.9 dampening=0.1 weight_decay=0.1": DECAY,
    "torch Adagrad": RULE,
    "torch Adadelta lr=1.0 rho=0.9": RULE,
    "torch Rprop": RULE,
    "torch Adam+clip_grad_norm_ clip_norm=1.0": CLIP,
    "optax adam": Runs(adam()),
    "optax adam eps=1e-06 eps_root=1e-10": Later("eps_root is not offered yet"),
    "optax adam nesterov=True": NESTEROV,
    "optax nadam": NESTEROV,
    "optax adamw weight_decay=0.1": DECAY,
    "optax amsgrad": Later("the maximum of the corrected v is not offered yet, only torch's form"),
    "optax adamax": RULE,
    "optax adamaxw weight_decay=0.1": RULE,
    "optax adabelief": RULE,
    "optax radam": RULE,
    "optax lion weight_decay=0.1": RULE,
    "optax adan": RULE,
    "optax lamb weight_decay=0.1": RULE,
    "optax yogi": RULE,
    "optax rmsprop decay=0.999": ROOT_EPS,
    "optax rmsprop decay=0.999 centered=True momentum=0.9": CENTERED,
    "optax adagrad": RULE,
    "optax sgd momentum=0.9 nesterov=True": Runs(sgd(momentum=0.9, nesterov=True)),
    "optax novograd": RULE,
    "optax clip_by_global_norm+adam clip_norm=1.0": CLIP,
    "optax clip+adam clip_value=0.5": CLIP,
    "optax adam(warmup_cosine_decay_schedule) init_value=0.0 peak_value=0.01 warmup_steps=10 "
    "decay_steps=40 end_value=0.0001": Runs(
        # after the warm-up XLA's float32 cosine, which no other library repeats to the last bit
        adam(),
        lr=warmup_cosine,
        float64=float(np.finfo(np.float32).eps),
        exact=10,
    ),
    "keras Adam": Runs(adam(eps=1e-7, eps_form="hat"), lr=keras_lr),
    "keras Adam epsilon=0.001": Runs(adam(eps=1e-3, eps_form="hat"), lr=keras_lr),
    "keras Adam amsgrad=True": Runs(adam(eps=1e-7, eps_form="hat", amsgrad=True), lr=keras_lr),
    "keras Adam weight_decay=0.1": DECAY,
    "keras Adam clipnorm=1.0": CLIP,
    "keras Adam global_clipnorm=1.0": CLIP,
    "keras Adam clipvalue=0.5": CLIP,
    # the average stands beside the parameters, which move as without it
    "keras Adam use_ema=True ema_momentum=0.9": Runs(adam(eps=1e-7, eps_form="hat"), lr=keras_lr),
    "keras Adam gradient_accumulation_steps=4": Later("accumulation is not offered yet"),
    "keras AdamW weight_decay=0.1": DECAY,
    "keras Nadam": NESTEROV,
    "keras Adamax": RULE,
    "keras RMSprop rho=0.999": ROOT_EPS,
    # rounds momentum to float32 on its way to TensorFlow
    "keras SGD momentum=0.9 nesterov=True": Runs(
        sgd(momentum=float(np.float32(0.9)), nesterov=True)
    ),
    "keras Lion": RULE,
    "keras Adagrad": RULE,
    "keras tf.compat.v1.train.AdamOptimizer epsilon=1e-08": Runs(
        adam(eps_form="hat", **TF1), lr=tf1_lr
    ),
}
RUNS = {name: row for name, row in ROWS.items() if isinstance(row, Runs)}


def follow(case, make, lr, steps=40):
    """The largest distance from the recorded parameters, relative to the largest |p| so far."""
    p = case.params0.copy()
    opt = make(p, lr)
    scale = np.abs(case.params0).astype(np.float64)
    worst = 0.0
    assert max(case.after) == len(case.grads) == 40
    for taken, g in enumerate(case.grads[:steps], 1):
        opt.step(g.copy())
        scale = np.maximum(scale, np.abs(p))
        if taken in case.after:
            worst = max(worst, float(np.max(np.abs(p - case.after[taken]) / scale)))
    return worst


def test_every_recorded_case_has_a_row():
    assert {name for name, _ in CASES} == set(ROWS)
    assert len(CASES) == 2 * len(ROWS) == 122


def test_cases_not_offered_are_counted():
    reasons = [row.reason for row in ROWS.values() if isinstance(row, Later)]
    assert all(reasons)
    assert (len(RUNS), len(reasons)) == (16, 45)


@pytest.mark.parametrize("name", RUNS)
def test_float64(name):
    row, case = RUNS[name], CASES[name, "float64"]
    assert follow(case, row.make, row.lr, row.exact) < 1e-12
    assert follow(case, row.make, row.lr) < row.float64


@pytest.mark.parametrize("name", RUNS)
def test_float32(name):
    row = RUNS[name]
    lr = keras_lr32 if row.lr is keras_lr else row.lr
    worst = follow(CASES[name, "float32"], row.make, lr)
    assert worst < 4 * np.finfo(np.float32).eps


PLAIN = [
    ("keras Adam", {"eps": 1e-7}, 1.05e-5),
    ("keras Adam epsilon=0.001", {"eps": 1e-3}, 1.05e-5),
    ("keras Adam amsgrad=True", {"eps": 1e-7, "amsgrad": True}, 1.05e-5),
    ("keras tf.compat.v1.train.AdamOptimizer epsilon=1e-08", {"eps": 1e-8}, 1.6e-5),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options", "share"), PLAIN, ids=[row[0] for row in PLAIN])
def test_keras_and_tf1_with_float64_scalars(name, options, share, dtype):
    """As anyone would call it: how far the paths part by the float32 scalars of Keras and TF1.

    Keras changes sqrt(c2)/c1 by -1.01e-5 at most (t = 2), so the paths part by at most that share
    of their length. In TF1 the roundings of 1 - beta2 and beta2 cancel; each of the t products
    rounds the power by up to 3e-8, where c2 is about t/1000: at most 1.5e-5 of the root.
    """
    case = CASES[name, dtype]
    p = case.params0.copy()
    opt = na.Adam(p, lr=0.01, eps_form="hat", **options)
    length = np.zeros(p.shape)
    for taken, g in enumerate(case.grads, 1):
        before = p.copy()
        opt.step(g.copy())
        length += np.abs(p - before)
        if taken in case.after:
            rounding = 4 * np.finfo(dtype).eps * (np.abs(case.params0) + length)
            assert np.all(np.abs(p - case.after[taken]) <= share * length + rounding)

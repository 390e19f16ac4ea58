"""The recorded trajectories of torch, optax, TF1 and Keras that rules repeat, and Keras itself."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numadam as na
from tests.golden import Runs, cases_of, follow, keras_rows, load, maker

CASES = {(case.name, case.dtype.name): case for case in load()}


adam, adamw, nadam, radam = map(maker, (na.Adam, na.AdamW, na.NAdam, na.RAdam))
adamax, adabelief, lion = map(maker, (na.AdaMax, na.AdaBelief, na.Lion))
rmsprop, sgd, adagrad = map(maker, (na.RMSprop, na.SGD, na.Adagrad))


def warmup_cosine(taken):
    """Optax's schedule, which gives float32 for float64 parameters too.

    10 steps up to 0.01, in float32; then half a cosine down to 1e-4 at step 40, in float64 and
    rounded once.
    """
    if taken < 10:
        one, top = np.float32(1), np.float32(0.01)
        return float(-top * (one - np.float32(taken) / np.float32(10)) + top)
    cosine = 0.5 * (1 + math.cos(math.pi * (taken - 10) / 30))
    return float(np.float32(0.01 * ((1 - 0.01) * cosine + 0.01)))


#: p - lr*wd*p and the step are added before they meet p: one rounding. torch shrinks p first and
#: is itself about 6 eps from the exact path.
SHRUNK_FIRST = 10.0
ROWS = {
    "torch Adam eps=1e-08": Runs(adam()),
    "torch Adam eps=0.001": Runs(adam(eps=1e-3)),
    "torch Adam amsgrad=True": Runs(adam(amsgrad=True)),
    "torch Adam weight_decay=0.1": Runs(adam(weight_decay=0.1)),
    "torch Adam weight_decay=0.1 amsgrad=True": Runs(adam(weight_decay=0.1, amsgrad=True)),
    "torch Adam maximize=True": Runs(adam(maximize=True)),
    "torch AdamW weight_decay=0.1": Runs(adamw(weight_decay=0.1), float32=SHRUNK_FIRST),
    "torch AdamW weight_decay=0.1 amsgrad=True": Runs(
        adamw(weight_decay=0.1, amsgrad=True), float32=SHRUNK_FIRST
    ),
    # two divisions instead of one
    "torch NAdam": Runs(nadam(like="torch"), float32=5.0),
    "torch RAdam": Runs(radam(eps_form="hat")),
    "torch Adamax": Runs(adamax(eps_form="norm")),
    "torch RMSprop alpha=0.999": Runs(rmsprop(beta2=0.999)),
    "torch RMSprop alpha=0.999 momentum=0.9": Runs(rmsprop(beta2=0.999, momentum=0.9), float32=5.0),
    "torch RMSprop alpha=0.999 centered=True": Runs(rmsprop(beta2=0.999, centered=True)),
    "torch SGD": Runs(sgd()),
    "torch SGD momentum=0.9": Runs(sgd(momentum=0.9)),
    "torch SGD momentum=0.9 nesterov=True": Runs(sgd(momentum=0.9, nesterov=True)),
    "torch SGD momentum=0.9 dampening=0.1 weight_decay=0.1": Runs(
        sgd(momentum=0.9, dampening=0.1, weight_decay=0.1)
    ),
    "torch Adagrad": Runs(adagrad(like="torch")),
    "torch Adam+clip_grad_norm_ clip_norm=1.0": Runs(adam(clip_norm=1.0, like="torch")),
    "optax adam": Runs(adam()),
    "optax adam eps=1e-06 eps_root=1e-10": Runs(adam(eps=1e-6, eps_root=1e-10)),
    "optax adam nesterov=True": Runs(adam(nesterov=True)),
    "optax nadam": Runs(adam(nesterov=True)),
    "optax adamw weight_decay=0.1": Runs(adamw(weight_decay=0.1)),
    "optax amsgrad": Runs(adam(amsgrad="vhat")),
    "optax adamax": Runs(adamax(eps_form="norm")),
    "optax adamaxw weight_decay=0.1": Runs(adamax(eps_form="norm", weight_decay=0.1)),
    "optax adabelief": Runs(adabelief()),
    "optax radam": Runs(radam(eps_form="paper")),
    "optax lion weight_decay=0.1": Runs(lion(beta2=0.999, weight_decay=0.1)),
    "optax rmsprop decay=0.999": Runs(rmsprop(beta2=0.999, eps=0.0, eps_root=1e-8)),
    # optax has lr inside the buffer: a rounding of the first step that momentum makes larger
    "optax rmsprop decay=0.999 centered=True momentum=0.9": Runs(
        rmsprop(beta2=0.999, eps=0.0, eps_root=1e-8, centered=True, momentum=0.9), float32=6.0
    ),
    "optax adagrad": Runs(adagrad(like="optax")),
    "optax sgd momentum=0.9 nesterov=True": Runs(sgd(momentum=0.9, nesterov=True)),
    "optax clip_by_global_norm+adam clip_norm=1.0": Runs(adam(clip_norm=1.0)),
    "optax clip+adam clip_value=0.5": Runs(adam(clip_value=0.5)),
    "optax adam(warmup_cosine_decay_schedule) init_value=0.0 peak_value=0.01 warmup_steps=10 "
    "decay_steps=40 end_value=0.0001": Runs(adam(), lr=warmup_cosine),
    "keras tf.compat.v1.train.AdamOptimizer epsilon=1e-08": Runs(
        adam(like="tf1"), float32=0.0, float64=0.0
    ),
}


#: On TensorFlow Keras rounds Python's numbers to float32, for float64 parameters too.
ON_TENSORFLOW = 100.0, 1e-5
ROWS |= keras_rows("keras", *ON_TENSORFLOW) | keras_rows("keras-jax")


def test_every_recorded_case_has_a_row():
    assert {name for name, _ in CASES} == {*ROWS}
    assert len(CASES) == 2 * len(ROWS) == 162


#: Float64 where no other option is beside the decay; the rest is a sweep, and so is Keras on
#: TensorFlow, whose numbers are those of Keras on JAX but for the rounding of its scalars
RARE = re.compile("keras (?!tf)|keras-jax.*=|.*weight_decay=0.1 |.*dampening|.*(maxw|lion) weight")
USUAL = {name: "" if RARE.match(name) or "W weight" in name else "float64" for name in ROWS}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[] if dtype == usual else [pytest.mark.sweep])
        for name, usual in USUAL.items()
        for dtype in ("float32", "float64")
    ],
)
def test_follows_the_recorded_run(name, dtype):
    row = ROWS[name]
    worst = follow(CASES[name, dtype], row.make, row.lr)
    if dtype == "float32":
        assert worst <= row.float32 * np.finfo(np.float32).eps
    else:
        assert worst <= row.float64


# --- Keras itself, where it is installed ---------------------------------------------------------


ROOT = Path(__file__).parents[2]


def bound(backend, name, row, dtype):
    """Largest distance, relative to the largest |p| so far."""
    eps = float(np.finfo(dtype).eps)
    if backend != "torch":
        return row.float32 * eps if dtype == "float32" else row.float64
    # On torch Keras has code of its own: b*m + (1-b)*g, decay first, and products of NAdam's
    # momenta another way; norms are float32 for float64 gradients too.
    if dtype == "float32":
        return (40.0 if "Nadam" in name else 8.0) * eps
    return 1e-7 if "clipnorm" in name else 1e-12


LIVE = [pytest.param(name, marks=pytest.mark.peers("keras", name)) for name in ("jax", "torch")]


# half a minute on JAX; the recorded runs are of both dtypes
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.sweep), "float64"])
@pytest.mark.parametrize("backend", LIVE)
def test_live_keras(backend, dtype):
    command = [sys.executable, "-m", "tests.golden", backend, dtype]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows, cases = keras_rows("keras-jax"), cases_of("keras-jax", json.loads(done.stdout))
    assert {case.name for case in cases} == set(rows)
    for case in cases:
        row = rows[case.name]
        apart = follow(case, row.make, row.lr)
        assert apart <= bound(backend, case.name, row, dtype), case.name

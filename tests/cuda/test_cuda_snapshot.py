"""Snapshots on the GPU, in the simulator: all that steps change, in one piece."""

from __future__ import annotations

import signal

import numpy as np
import pytest

import numadam as na
from tests.interrupts import strike_everywhere

OPTIONS = {
    "scalars by value": (na.NAdam, {"accumulate": 2}),
    "counted on the GPU": (na.NAdam, {"nonfinite": "skip", "groups": {"b": {"lr": 0.5}}}),
    "capturable": (na.Adam, {"capturable": True, "clip_norm": 1.0, "ema": 0.9}),
}


def arrays(cupy, seed):
    rng = np.random.default_rng(seed)
    strided = cupy.asarray(rng.standard_normal((4, 6)).astype("f4"))[::2, ::3]
    return {"w": cupy.asarray(rng.standard_normal((3, 2)).astype("f4")), "b": strided}


def content(opt):
    backend = opt._backend
    state = [leaf for leaves in backend.state.values() for leaf in leaves]
    counters = {name: np.asarray(value).tolist() for name, value in backend.counters.items()}
    norm = repr(opt.grad_norm) if opt._settings.plan.norm else ""
    return [np.asarray(a).tobytes() for a in (*backend.params, *state)], counters, norm


@pytest.mark.parametrize("case", OPTIONS)
def test_a_restored_run_goes_on_as_the_one_that_never_left(cupy, case):
    rule, options = OPTIONS[case]
    opt, twin = (rule(arrays(cupy, 0), lr=0.1, **options) for _ in range(2))
    for one in (opt, twin):
        for seed in (1, 2, 3):
            one.step(arrays(cupy, seed))
    here, snap = content(opt), opt.snapshot()
    opt.step(arrays(cupy, 7))
    opt.reset()
    assert content(opt) != here
    opt.restore(snap)
    assert content(opt) == here
    assert opt.snapshot(out=snap) is snap
    for one in (opt, twin):
        one.step(arrays(cupy, 4))
    assert content(opt) == content(twin)
    with pytest.raises(ValueError, match="of another optimiser"):
        twin.restore(snap)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("way", ["restore", "snapshot", "grads", "load"])
def test_ctrl_c_comes_before_or_after(cupy, way, tmp_path):
    opt = na.SGD(arrays(cupy, 0), lr=0.1, momentum=0.5)
    first, zeros = opt.snapshot(), arrays(cupy, 0)
    opt.save(tmp_path / "first")
    for leaf in zeros.values():
        leaf[...] = 0
    opt.step(arrays(cupy, 1))
    second, snap, seen = opt.snapshot(), opt.snapshot(), []

    def make():
        opt.restore(first)
        opt.snapshot(out=snap)
        opt.restore(second)
        opt.grads = zeros

    def work(_):
        if way == "grads":
            opt.grads = arrays(cupy, 5)
        elif way == "load":
            opt.load(tmp_path / "first")
        else:
            opt.restore(first) if way == "restore" else opt.snapshot(out=snap)

    def check(_):
        if way == "snapshot":
            opt.restore(snap)
        grads = [np.asarray(leaf).tobytes() for leaf in opt.grads.values()]
        seen.append(grads if way == "grads" else content(opt))

    def strike():
        signal.raise_signal(signal.SIGINT)

    inside = "/_optimizer/base.py" if way == "grads" else "/_cuda/backend.py"
    assert strike_everywhere(make, work, check, inside=inside, strike=strike) > 20
    assert len({repr(one) for one in seen}) == 2

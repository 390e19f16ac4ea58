"""On a GPU: the launches of a step, and Ctrl-C between them."""

from __future__ import annotations

import re
import signal

import numpy as np
import pytest

import numadam as na
from tests import emulator, extras

#: Options and dtype; the kernels of a step over any number of arrays, and how often the host waits.
STEPS = {
    "plain": ({}, "f4", ["step"], 0),
    "clip": (
        {"clip_norm": 1.0, "bounds": (0, 2), "ema": 0.9},
        "f4",
        ["sums", "norms", "step"],
        0,
    ),
    "clip, float64": ({"clip_norm": 1.0}, "f8", ["sums", "norms", "step"], 0),
    "skip": (
        {"clip_norm": 1.0, "nonfinite": "skip"},
        "f8",
        ["sums", "norms", "step"],
        2,
    ),
    "raise": ({"nonfinite": "raise"}, "f8", ["sums", "norms", "step"], 2),
}


def launched():
    """Names of the kernels that were launched since the last call."""
    found = (re.match(r"_ZN7numadam\d([a-z]+)B", name) for name in emulator.launches())
    return [match[1] if match else "CuPy's" for match in found]


def check_launches(opt, grads, kernels, waits):
    opt.step(grads)
    launched()
    emulator.waits()
    opt.step(grads)
    assert (launched(), emulator.waits()) == (kernels, waits)


@pytest.fixture
def counts():
    if not emulator.is_running():
        extras.stop("gpu", "a GPU does not say what was launched: the emulator does")


@pytest.mark.usefixtures("counts")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", STEPS)
def test_launches_and_waits_of_a_step(cp, name, count):
    options, dtype, kernels, waits = STEPS[name]
    opt = na.Adam([cp.ones(5, dtype) for _ in range(count)], **options)
    check_launches(opt, [cp.ones(5, dtype) for _ in range(count)], kernels, waits)


@pytest.mark.usefixtures("counts")
def test_launches_of_several_norms_and_of_groups(cp):
    params, grads = ({"a": cp.ones(5), "b": cp.ones(3)} for _ in range(2))
    kernels = ["sums", "norms", "step"]
    check_launches(na.Adam(params, clip_array_norm=1.0), grads, kernels, 0)
    check_launches(na.Adam(params, groups={"b": {"lr": 0.1}}), grads, ["step"], 0)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_between_launches_waits_for_the_whole_step(cp, monkeypatch):
    from numadam._cuda.launch import Launch

    params, grads = ([cp.ones(4) for _ in range(3)] for _ in range(2))
    calls, bind = [], Launch.bind

    def interrupted(*arguments):
        launch = bind(*arguments)

        def launch_and_interrupt():
            launch()
            calls.append(launch)
            if len(calls) == 1:
                signal.raise_signal(signal.SIGINT)

        return launch_and_interrupt

    monkeypatch.setattr(Launch, "bind", interrupted)
    opt = na.SGD(params, lr=1.0, clip_norm=9.0)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        opt.step(grads)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(calls) == 3
    assert opt.t == 1
    assert all((p == 0).all() for p in params)


def test_options_divide_by_zero_as_on_the_cpu(cp):
    """Scalars of a step are NumPy's: a quotient that is infinite stops no step half way."""
    p = cp.ones(2)
    opt = na.Adam(p, lr=0.1, beta2=lambda t: 0.5 if t < 1 else 0.0)
    opt.step(cp.ones(2))
    opt.step(cp.ones(2))
    assert opt.t == 2
    assert np.isfinite(cp.asnumpy(p)).all()
    p = cp.zeros(2, np.float32)
    na.SGD(p, lr=1e300).step(cp.asarray(np.array([1, -1], np.float32)))
    np.testing.assert_array_equal(cp.asnumpy(p), [-np.inf, np.inf])

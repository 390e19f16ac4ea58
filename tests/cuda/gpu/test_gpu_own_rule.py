"""On a GPU: a rule of the user's, as on the CPU but for multiplications fused with additions."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest

import numadam as na
from tests.rules.yogi import ARGUMENTS, scalars


@numba.njit
def root_of(v, h):
    return math.sqrt(v) * h.root + h.eps


def element(p, g, gg, m, v, h):
    m = h.beta1 * m + h.alpha1 * g
    v = v - h.alpha2 * (gg if v > gg else -gg if v < gg else h.zero)
    return h.step * m / root_of(v, h), m, v


Yogi = na.rule("Yogi", element, scalars, **ARGUMENTS, modulus=("v",))


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("f4", {}),
        ("f4", {"clip_norm": 1.0, "weight_decay": 0.1, "ema": 0.9, "bounds": (-1, 1)}),
        ("f2", {"master": True}),
        ("f8", {"beta1": na.schedules.Cosine(0.5, steps=3, end=0.9)}),
        ("c8", {}),
        ("c16", {"complex_form": "modulus"}),
        ("f4", {"capturable": True}),
    ],
    ids=str,
)
def test_steps_as_on_the_cpu(cp, dtype, options):
    on_cpu = {name: value for name, value in options.items() if name != "capturable"}
    x, random = np.linspace(-1, 1, 300).astype(dtype), np.random.default_rng(5)
    y = cp.asarray(x)
    host, device = Yogi(x, lr=0.05, **on_cpu), Yogi(y, lr=0.05, **options)
    for _ in range(4):
        g = random.standard_normal(300)
        if x.dtype.kind == "c":
            g = g + 1j * random.standard_normal(300)
        host.step(g.astype(dtype))
        device.step(cp.asarray(g.astype(dtype)))
    rtol = {"f2": 2e-3, "f4": 2e-5, "c8": 2e-5}.get(dtype, 1e-13)
    for here, there in ((x, y), (host.state["v"], device.state["v"])):
        np.testing.assert_allclose(cp.asnumpy(there), here, rtol=rtol, atol=rtol)


def test_a_run_of_minimize_as_on_the_cpu(cp):
    def fun(x):
        return ((x - 1) ** 2).sum(), 2 * (x - 1)

    options = {"jac": True, "rule": Yogi, "lr": 0.1, "maxiter": 20}
    on_cpu, on_gpu = (na.minimize(fun, xp.zeros(5), **options) for xp in (np, cp))
    np.testing.assert_allclose(cp.asnumpy(on_gpu.x_last), on_cpu.x_last, rtol=1e-14)

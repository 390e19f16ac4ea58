"""The pooled form of a step, as under Numba's workqueue layer: the bits of the serial form."""

from __future__ import annotations

import copy

import numba
import numpy as np
import pytest

import numadam as na
from numadam import Rows
from numadam._jit import loops
from tests.runs import SINK, compiled_step, digest, shorten_parts, uses_parallel
from tests.trees import tree_map

RNG = np.random.default_rng(5)


def draw(n, dtype="f4"):
    return RNG.standard_normal(n).astype(dtype)


def sink():
    """All options at once, over nested arrays of which one is strided, with a flush at the end."""
    options = {**copy.deepcopy(SINK), "clip_norm": 20.0}
    options["lr"]["strided"] = np.linspace(0.0, 0.1, 700)
    options["bounds"]["strided"] = (np.linspace(-1, 0, 700), 0.8)
    sizes = {"w": [30_011, 4_097], "0-d": 1, "empty": 0, "strided": 1400}

    def make(n):
        return draw(n)[::2] if n == 1400 else draw(n).reshape(() if n == 1 else n)

    return [tree_map(make, sizes) for _ in range(6)], options


def half():
    """float16 with a float32 copy; the third gradient is not finite, and skipped."""
    calls = [[draw(20_001, "f2"), draw(3, "f2")] for _ in range(5)]
    calls[3][0][777] = np.nan
    return calls, {"master": True, "nonfinite": "skip", "clip_array_norm": 9.0}


def large_complex():
    """Numbers whose squares leave the range: the partial sums are formed twice."""
    calls = [
        {name: draw(2 * n, "f8").view(complex) * 1e200 for name, n in (("a", 9_001), ("b", 40))}
        for _ in range(4)
    ]
    return calls, {"clip_norm": 3.0, "groups": {"b": {"lr": 0.01}}}


def rows():
    """A gradient that touches some rows of the first array."""
    p = [draw(6_000).reshape(600, 10), draw(5_000)]
    grads = [[Rows(RNG.permutation(600)[:150], draw(1500).reshape(150, 10)), draw(5_000)]]
    return [p, *3 * grads], {"sparse": "lazy", "clip_norm": 1.0}


@pytest.fixture
def pooled(monkeypatch):
    """Every optimiser of the test steps in the pool, whatever the layer and its size."""
    loops.layer()  # that of the other tests is chosen
    monkeypatch.setattr(loops, "layer", lambda: "workqueue")
    monkeypatch.setattr(loops, "wants_parallel", lambda total: True)


@pytest.mark.usefixtures("pooled")
@pytest.mark.parametrize("case", [sink, half, large_complex, rows])
def test_bits_of_the_serial_form(case, thread_count):
    (start, *calls), options = case()
    found = set()
    for part in (0, None, 65, 999):
        opt = na.Adam(tree_map(np.copy, start), **copy.deepcopy(options))
        assert uses_parallel(opt)
        if part == 0:
            compiled_step(opt).kernel = compiled_step(opt).serial
        elif part is not None:
            shorten_parts(opt, part)
        for grads in calls:
            opt.step(grads)
        if "accumulate" in options:
            assert opt.flush()
        found.add((digest(opt), opt.t, opt.skipped, str(opt.grad_norm)))
    assert len(found) == 1


@pytest.mark.usefixtures("pooled")
def test_a_refused_gradient_leaves_everything(thread_count):
    p, g = draw(50_000), draw(50_000)
    opt = na.Adam(p, nonfinite="raise")
    opt.step(g)
    before = digest(opt), opt.t
    g[40_000] = np.inf
    with pytest.raises(FloatingPointError):
        opt.step(g)
    assert (digest(opt), opt.t) == before


@pytest.mark.usefixtures("pooled")
def test_functional_api_with_out():
    p, g, out = draw(30_001), draw(30_001), np.empty(30_001, "f4")
    m, v = np.zeros_like(p), np.zeros_like(p)
    moved = p.copy()
    na.adam_update(moved, g, m.copy(), v.copy(), 1)
    na.adam_update(p, g, m, v, 1, out=out)
    np.testing.assert_array_equal(p + out, moved)


@pytest.mark.usefixtures("pooled")
def test_number_of_threads_is_asked_at_each_step():
    p, g = draw(30_000), draw(30_000)
    opt = na.Adam(p)
    usual, seen = numba.get_num_threads(), []
    try:
        for count in (1, usual):
            numba.set_num_threads(count)
            opt.step(g)
            seen.append(int(opt._backend.arguments.meta["threads"][0]))
    finally:
        numba.set_num_threads(usual)
    assert seen == [1, usual]

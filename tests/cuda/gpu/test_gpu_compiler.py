"""On a GPU: kernels that the second compiler has made."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.cuda import second_compiler


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_kernels_of_the_second_compiler_step_as_the_cpu(cp, dtype, monkeypatch):
    from numadam._cuda import compiler

    first, made = compiler.ptx_of, []

    def ptx_of(kernel, capability, *compilers):
        if compilers:
            return first(kernel, capability, *compilers)
        made.append(kernel.name)
        return second_compiler.ptx_of(kernel, capability)

    monkeypatch.setattr(compiler, "ptx_of", ptx_of)
    monkeypatch.setattr(compiler, "_kept", lambda name: None)
    monkeypatch.setattr(compiler, "_keep", lambda name, content: None)
    monkeypatch.setattr(compiler, "_kernels", {})
    left, start = [], np.linspace(-1, 1, 700).astype(dtype)
    for asarray in (np.array, cp.asarray):
        params = {"a": asarray(start), "b": asarray(start[:5])}
        opt = na.Adam(params, clip_norm=1.0, bounds=(-1, 1), ema=0.9)
        for k in range(3):
            g = np.cos(start * k + 1)
            opt.step({"a": asarray(g), "b": asarray(g[:5])})
        left.append([cp.asnumpy(cp.asarray(array)) for array in params.values()])
    assert set(made) == {"step", "sums", "norms"}
    for on_cpu, on_gpu in zip(*left, strict=True):
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-6 if dtype == "f4" else 1e-14)

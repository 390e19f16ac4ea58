"""The sides of ``bench --gpu``: in the simulator with a few elements; refused without a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from numadam.bench import gpu_cases, gpu_peers
from numadam.bench.cli import run_case
from numadam.bench.peers import Unavailable

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


@pytest.fixture
def card(cupy, monkeypatch):
    """The stand-in for CuPy as a card with a thousand bytes free."""
    monkeypatch.setattr(gpu_peers, "need_gpu", lambda: cupy)
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (10_000, 0), raising=False)
    monkeypatch.setattr(gpu_peers, "values", lambda n, seed=0: cupy.full(n, 1.0 + seed, np.float32))
    monkeypatch.setattr(cupy.stream, "synchronize", lambda: None, raising=False)
    return cupy


def test_a_step_is_compared_with_float64_on_the_cpu(card):
    exact = gpu_peers.agreement("SGD", {}, np.float32, steps=2)
    assert 0 < exact < 1e-6
    decayed = gpu_peers.agreement("SGD", {"weight_decay": 0.1}, np.float32, steps=2)
    assert 0 < decayed < 1e-6
    rates = {"lr": np.linspace(0.0, 0.1, 1_000, dtype=np.float32)}
    assert 0 < gpu_peers.agreement("SGD", rates, np.float32, steps=2) < 1e-6


def test_sides_take_steps(card):
    gpu_peers.step(5)()
    gpu_peers.many([3, 4])()
    assert gpu_peers.host_time([3, 4])(2).value > 0
    with pytest.raises(Unavailable, match="GiB of free GPU memory"):
        gpu_peers.step(10_000)


def test_every_rule_and_option_is_checked():
    names = {case.name for case in gpu_cases.GPU_CASES}
    for rule in ("adam", "lion", "radam", "adagrad", "sgd"):
        assert f"right-rule-{rule}" in names
    for option in ("bounds-array", "clip-norm", "bfloat16", "complex-modulus", "nonfinite-skip"):
        assert f"right-{option}" in names
    assert len(names) == len(gpu_cases.GPU_CASES)


def test_without_a_gpu_each_case_says_so():
    try:
        gpu_peers.need_gpu()
    except Unavailable:
        pass
    else:
        pytest.skip("there is a GPU: the cases would run")
    for case in gpu_cases.GPU_CASES[:4]:
        row = run_case(case, quick=False)
        assert row.figure is None
        assert "GPU" in row.skipped or "not installed" in row.skipped


@pytest.mark.cuda
def test_the_code_of_a_step_is_counted():
    from numadam.bench import ptx

    instructions, registers = ptx.step_code(ptx.plan_of("SGD", {}))
    assert 5 < instructions < 200
    assert 16 <= registers <= 64

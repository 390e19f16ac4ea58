"""Checkpoints of GPU optimisers: the file is that of the CPU, and goes to and fro."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest

import numadam as na
from numadam import CheckpointError
from tests.saved import load_into, loaded
from tests.trees import tree_map

#: options and dtype; all that a GPU counts, carries and keeps
CASES = {
    "plain": ({}, "float32"),
    "sums, bounds, average": (
        {"accumulate": 2, "bounds": (-0.5, 0.25), "ema": 0.9, "clip_norm": 0.1},
        "float32",
    ),
    "skips": ({"nonfinite": "skip", "lr": {"w": 0.1, "b": np.linspace(0.0, 0.1, 5)}}, "float64"),
    "products": ({"beta1": na.schedules.Polynomial(0.9, steps=9, end=0.5)}, "float64"),
    "bfloat16": ({"master": True}, ml_dtypes.bfloat16),
    "bfloat16 state": ({"state_dtype": "bfloat16"}, "float32"),
    "modulus": ({"complex_form": "modulus"}, "complex64"),
    "frozen": ({"groups": {"b": {"frozen": True}}}, "float32"),
}


def arrays(seed, dtype):
    rng = np.random.default_rng(seed)
    w, b = rng.standard_normal((3, 4)), rng.standard_normal(5)
    return {"w": np.asfortranarray(w.astype(dtype)), "b": b.astype(dtype)}


@pytest.mark.parametrize("case", CASES)
def test_the_file_of_a_gpu_is_that_of_a_cpu(cupy, case, tmp_path):
    """Of the same numbers, to the byte; and a run goes on from either."""
    options, dtype = CASES[case]

    def make(seed=0):
        return na.Adam(tree_map(cupy.asarray, arrays(seed, dtype)), **copy.deepcopy(options))

    gpu = make()
    for k in range(1, 4):
        gpu.step(tree_map(cupy.asarray, arrays(k, dtype)))
    paths = [tmp_path / f"{k}.safetensors" for k in range(4)]
    gpu.save(paths[0])
    cpu = na.load(paths[0])
    assert type(cpu.params["w"]) is np.ndarray
    cpu.save(paths[1])
    there = na.load(paths[1], xp=cupy)
    assert type(there.params["w"]) is cupy.ndarray
    assert there.params["w"].flags.f_contiguous
    there.save(paths[2])
    into = load_into(make(9), cpu)
    into.save(paths[3])
    assert len({path.read_bytes() for path in paths}) == 1
    assert cpu.t == there.t == into.t == gpu.t
    for one in (gpu, there, into):
        one.step(tree_map(cupy.asarray, arrays(7, dtype)))
        one.save(paths[0])
        paths.append(paths[0].read_bytes())
    assert len({*paths[4:]}) == 1


def test_lr_on_the_gpu(cupy, tmp_path):
    path = tmp_path / "run.safetensors"
    opt = na.Adam(cupy.asarray(np.ones(3)), lr=0.25, capturable=True)
    opt.step(cupy.asarray(np.ones(3)))
    opt.save(path)
    cpu = na.load(path)
    assert (cpu.lr, cpu.capturable, cpu.t) == (0.25, False, 1)
    assert na.load(path, xp=cupy).capturable
    other = na.Adam(cupy.asarray(np.zeros(3)), lr=0.5, capturable=True)
    lr = other.lr
    load_into(other, cpu)  # a run without it
    assert other.lr is lr
    assert float(lr) == 0.25
    assert (other.params == opt.params).all()
    cpu.lr = na.schedules.Constant(0.5)
    with pytest.raises(CheckpointError, match="lr: expected a number, got Constant"):
        load_into(other, cpu)
    assert float(lr) == 0.25


def test_a_frozen_array_of_the_host_beside_arrays_of_the_gpu(cupy):
    groups = {"ids": {"frozen": True}}
    params = {"w": cupy.asarray(np.ones(3)), "ids": np.arange(4)}
    opt = na.Adam(params, groups=groups)
    assert (loaded(opt).params["ids"] == params["ids"]).all()
    other = na.Adam({"w": cupy.asarray(np.ones(3)), "ids": np.zeros(4, int)}, groups=groups)
    load_into(other, opt)
    assert other.params["ids"].tolist() == [0, 1, 2, 3]
    here = na.Adam({"w": np.ones(3), "ids": cupy.asarray(np.zeros(4, int))}, groups=groups)
    load_into(here, opt)
    assert here.params["ids"].get().tolist() == [0, 1, 2, 3]

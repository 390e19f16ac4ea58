"""Compiled kernels give the same bits wherever their arrays begin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import numadam as na
from tests.cuda.cuda_cases import CASES, OPTIONS, draw
from tests.cuda.machine.cases import cut, few, sweep

SHIFTS = [(0, 1), (1, 1), (3, 3), (2, 3), (1, 0)]


@pytest.mark.parametrize("dtype", few(["float32", "float64"], ["float32"]))
@pytest.mark.parametrize("case", few(CASES, ["Adam"]))
def test_any_alignment_gives_the_same_bits(machine, case, dtype):
    """Tiles, elements before and behind them, no tiles at all; many arrays in one launch."""
    p, g = np.random.default_rng(0).standard_normal((2, 1_030)).astype(dtype)

    def left(places):
        params = [cut(machine, p, shift) for shift, _ in places]
        opt = case.make(params if len(params) > 1 else params[0])
        for _ in range(2):
            grads = [cut(machine, g, of_g) for _, of_g in places]
            opt.step(grads if len(grads) > 1 else grads[0])
        return params

    (wanted,) = left([(0, 0)])
    for got in [*(left([place])[0] for place in SHIFTS), *left(SHIFTS)]:
        np.testing.assert_array_equal(got, wanted)


#: Plans whose arrays differ in width, or that have passes besides the step.
PLANS = ["decoupled", "skip", "bfloat16 state", "float16", "bfloat16", "bfloat16 master"]
PLANS += ["complex parts", "complex modulus"]


@sweep
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("name", PLANS)
def test_no_plan_minds_where_its_arrays_begin(machine, name, many):
    """The bits of arrays that begin at a multiple of 512 bytes."""
    option, random, sizes = OPTIONS[name], np.random.default_rng(4), [1_030, 67][: 1 + many]
    options = {key: value for key, value in option.options.items() if key != "lr"}
    draws = [[draw((n,), option.dtype, random) for n in sizes] for _ in range(5)]
    wanted = None
    for shift, of_g in [(0, 0), (1, 1), (3, 3), (4, 4), (2, 5), (0, 4), (1, 0)]:
        params = [cut(machine, p, shift) for p in draws[0]]
        opt = getattr(na, option.name)(params, lr=0.05, **options)
        for grads in draws[1:]:
            opt.step([cut(machine, g, of_g) for g in grads])
        left = [np.array(p) for p in params]
        wanted = wanted or left
        for got, one in zip(left, wanted, strict=True):
            np.testing.assert_array_equal(got, one, err_msg=f"{shift} {of_g}")


@sweep
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bounds_and_rates_of_each_element_begin_anywhere(machine, dtype):
    random, n = np.random.default_rng(4), 515
    p, g = (draw((n,), dtype, random) for _ in range(2))
    low, rate = random.standard_normal((2, n))
    wanted = None
    for shift, of_g, of_low in [(0, 0, 0), (1, 1, 0), (3, 3, 1), (2, 1, 0)]:
        param = {"w": cut(machine, p, shift)}
        bounds = (cut(machine, low, of_low), cut(machine, low + 1, of_low))
        lr = {"w": cut(machine, abs(rate), of_low)}
        opt = na.Adam(param, lr, bounds={"w": bounds}, clip_norm=1.0, master=dtype != "float32")
        for _ in range(2):
            opt.step({"w": cut(machine, g, of_g)})
        wanted = np.array(param["w"]) if wanted is None else wanted
        np.testing.assert_array_equal(np.array(param["w"]), wanted, err_msg=str(shift))


def test_arrays_of_many_sizes_and_alignments_get_the_numbers_of_each_alone(machine):
    rng, sizes = np.random.default_rng(2), [0, 1, 3, 1_000, 2_049, 0, 17]
    flat = machine.asarray(rng.standard_normal(sum(sizes)).astype(np.float32))
    ends = np.cumsum([0, *sizes])
    params = [flat[a:b] for a, b in itertools.pairwise(ends.tolist())]
    alone = [machine.asarray(np.array(part)) for part in params]
    together, each = na.Adam(params, lr=0.1), [na.Adam(part, lr=0.1) for part in alone]
    for _ in range(2):
        grads = [machine.asarray(rng.standard_normal(n).astype(np.float32)) for n in sizes]
        together.step(grads)
        for opt, g in zip(each, grads, strict=True):
            opt.step(g)
    for got, wanted in zip(params, alone, strict=True):
        np.testing.assert_array_equal(got, wanted)

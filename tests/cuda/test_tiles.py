"""Tiles: several numbers a read, where all arrays of a step are aligned alike."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from tests.cuda.cuda_cases import Case, gradients

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


@pytest.fixture
def tiles(cupy, monkeypatch):
    """Count of numbers that each read of the kernels takes."""
    from numadam._cuda import (
        compiler as cuda_compile,
    )
    from numadam._cuda import (
        kernel as cuda_loop,
    )
    from numadam._cuda import (
        memory as cuda_tiles,
    )
    from numadam._cuda import (
        norms as cuda_norms,
    )

    counts, make = [], cuda_tiles._simulated_read_tile

    def noting(memory, count, step, load):
        fetch = make(memory, count, step, load)

        def noted(address, i):
            counts.append(count)
            return fetch(address, i)

        return noted

    monkeypatch.setattr(cuda_tiles, "_simulated_read_tile", noting)
    monkeypatch.setattr(cuda_compile, "_kernels", {})
    assert cuda_loop.make_read_tile is cuda_tiles.make_read_tile
    assert cuda_norms.make_tile_access is cuda_loop.make_tile_access
    return counts


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("n", [1, 3, 4, 61])
def test_views_that_begin_anywhere_have_tiles(cupy, tiles, n, shift):
    """State is laid as the parameters are: head and tail element by element, tiles between."""
    case, grads = Case("Adam"), gradients((n,), "float32", 3)
    start = np.random.default_rng(5).standard_normal(n).astype("f4")
    room, of_grads = cupy.zeros(80, np.float32), cupy.zeros(80, np.float32)
    p, g = room[shift : shift + n], of_grads[shift : shift + n]
    p[...] = start
    opt = case.make(p)
    for value in grads:
        g[...] = value
        tiles.clear()
        opt.step(g)
        head = -shift % 4
        assert tiles.count(4) == 4 * (max(0, n - head) // 4)  # p, g, m, v
    wanted, _ = case.reference(start, grads)
    np.testing.assert_allclose(p, wanted, rtol=2e-5, atol=2e-5)
    assert not room[:shift].any()
    assert not room[shift + n :].any()


def test_arrays_that_are_aligned_unlike_are_right_without_tiles(cupy, tiles):
    room = cupy.zeros(80, np.float32)
    p = cupy.ones(40, np.float32)
    opt = na.SGD(p, lr=1.0)
    room[1:41] = 1.0
    tiles.clear()
    opt.step(room[1:41])
    assert set(tiles) == {1}
    assert not p.any()


@pytest.mark.parametrize(
    ("dtype", "options", "widest"),
    [
        ("float64", {}, 2),
        ("float16", {}, 4),  # its state is float32
        ("bfloat16", {"state_dtype": "bfloat16"}, 8),
        ("complex64", {}, 4),
        ("complex64", {"complex_form": "modulus"}, 4),
    ],
)
def test_a_tile_has_16_bytes_of_the_widest_array(cupy, tiles, dtype, options, widest):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    p = cupy.zeros(64, dtype)
    opt = na.Adam(p, **options)
    tiles.clear()
    opt.step(cupy.ones(64, dtype))
    assert max(tiles) == widest
    assert 1 not in tiles


def test_a_pass_without_the_widest_array_keeps_to_the_tiles_of_the_step(cupy):
    """Bounds of float16 parameters are applied before the first step, without float32 state."""
    room = cupy.full(64, 9.0, np.float16)
    na.Adam(room[:24], bounds=(0.0, 1.0))
    assert (room[:24] == 1).all()
    assert (room[24:] == 9).all()

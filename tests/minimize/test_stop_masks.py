"""Stop tests that leave out the elements of a mask: ghost cells of a block."""

import numpy as np
import pytest

import numadam as na
from numadam._core.parts import parts_of
from numadam._minimize.python.stop_tests import DeviceStopTests, HostStopTests
from numadam._minimize.stopping import Tolerances


def real(x):
    """The numbers of an array, one after the other."""
    return np.ascontiguousarray(x).reshape(-1).view(x.real.dtype).astype(np.float64)


@pytest.mark.parametrize("kind", [HostStopTests, DeviceStopTests])
@pytest.mark.parametrize("norm", [np.inf, 2])
@pytest.mark.parametrize(
    ("dtype", "bounds"),
    [("float32", None), ("float32", (-0.7, 0.9)), ("float32", "array"), ("complex128", None)],
    ids=str,
)
def test_norms_are_those_of_what_the_mask_has(kind, norm, bounds, dtype):
    rng = np.random.default_rng(3)

    def draw():
        values = rng.normal(size=(9, 31)) + (
            1j * rng.normal(size=(9, 31)) if dtype[0] == "c" else 0
        )
        return values.astype(dtype)

    if dtype == "complex128" and bounds is not None:
        pytest.skip("complex numbers have no bounds")
    x, g, low, high = draw(), draw(), -np.inf, np.inf
    box = bounds
    if bounds == "array":
        low, high = -np.abs(draw()), np.abs(draw())
        box = (low, high)
    elif bounds is not None:
        low, high = np.float32(bounds)
    owned = rng.random(x.shape) < 0.6
    g[~owned] = np.nan
    optimizer = na.Adam(x, lr=0.1, bounds=box)
    tolerances = Tolerances.read(1e-9, None, 0.0, 1e-9, norm)
    tests = kind(parts_of(optimizer).backend, tolerances, np.nan, [owned])
    tests.measure([g])
    tests.keep_x()
    before = x.copy()
    optimizer.step(np.where(owned, g, 1))
    found = tests.measure([g])
    steep = g[owned]
    if bounds is not None:
        ends = [np.broadcast_to(end, x.shape)[owned] for end in (low, high)]
        steep = np.maximum(np.minimum(g[owned], x[owned] - ends[0]), x[owned] - ends[1])
    parts = steep, x[owned] - before[owned], x[owned]
    np.testing.assert_allclose(found, [np.linalg.norm(real(one), norm) for one in parts], 1e-14)

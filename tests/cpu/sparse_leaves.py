"""Parameters with sparse gradients beside dense ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from numadam import Rows
from tests.cpu.lazy_adam import dense_of

HOW = pytest.mark.parametrize("how", ["lazy", "dense"])


def tables(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "tables": [rng.standard_normal((30, 4)), rng.standard_normal((20, 2))],
        "head": {"w": rng.standard_normal((4, 2)), "b": rng.standard_normal(2)},
    }


def gradients(seed, sparse):
    """Two sparse leaves beside dense ones: `Rows` and CSR, or the dense arrays they stand for."""
    rng = np.random.default_rng(seed)
    grads = tables(seed)
    rows = np.sort(rng.permutation(30)[:5])
    values = rng.standard_normal((5, 4))
    dense = np.zeros((20, 2))
    dense[rng.permutation(20)[:3]] = rng.standard_normal((3, 2))
    if sparse:
        grads["tables"] = [Rows(rows, values), csr_matrix(dense)]
    else:
        grads["tables"] = [dense_of(rows, values, (30, 4)), dense]
    return grads, rows, np.flatnonzero(dense.any(1))

"""Refused steps with sparse gradients: everything stays as it was, and the next step is right."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from test_sparse_steps import (
    NEUTRAL,
    SHAPES,
    assert_same_optimisers,
    grads_of,
    is_untouched,
    params_of,
)

import numadam as na

BAD = {
    "index": (
        na.Rows(np.array([0, 9]), np.ones((2, 2, 3))),
        r"^grads\['rows'\].indices: got the row 9",
    ),
    "shape": (
        na.Rows(np.array([0]), np.ones((1, 3, 2))),
        r"^grads\['rows'\].values: expected shape",
    ),
    "dtype": (
        na.Rows(np.array([0]), np.ones((1, 2, 3), "f4")),
        r"^grads\['rows'\].values: expected f",
    ),
    "csr": (scipy.sparse.csr_array((9, 6)), r"^grads\['rows'\]: is a CSR matrix, but"),
    "coo": (scipy.sparse.coo_array((9, 6)), r"^grads\['rows'\]: expected a sparse matrix in CSR"),
    "dense shape": (np.ones((9, 3, 2)), r"^grads\['rows'\]: expected shape"),
    "text": ("rows", r"^grads\['rows'\]: "),
    "nan": (na.Rows(np.array([3]), np.full((1, 2, 3), np.nan)), r"^grads: hold NaN"),
}


@pytest.mark.parametrize("how", ["lazy", "dense"])
@pytest.mark.parametrize("what", BAD)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_refused_step_leaves_everything_as_it_was(how, what):
    bad, says = BAD[what]
    params, others = params_of(), params_of()
    options = {**NEUTRAL, "nonfinite": "raise"}
    opt = na.Adam(params, lr=0.1, sparse=how, **options)
    same = na.Adam(others, lr=0.1, sparse=how, **options)
    for one in (opt, same):
        one.step(grads_of(0))
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, FloatingPointError), match=says):
            opt.step({**grads_of(1), "rows": bad})
        assert_same_optimisers(opt, same)
        assert is_untouched(opt)
    dense = {
        name: np.random.default_rng(4).standard_normal(shape) for name, shape in SHAPES.items()
    }
    for grads in (dense, grads_of(5), dense):
        for one in (opt, same):
            one.step(grads)
        assert_same_optimisers(opt, same)


def test_rows_that_are_the_parameters_are_refused():
    p = np.arange(12.0).reshape(6, 2)
    opt = na.Adam(p, lr=0.1, sparse="lazy")
    for values in (p[2:4], opt.state["m"][:2]):
        with pytest.raises(ValueError, match=r"^grads shares memory with"):
            opt.step(na.Rows(np.array([0, 1]), values))
    assert (p == np.arange(12.0).reshape(6, 2)).all()
    assert opt.t == 0
    assert is_untouched(opt)


@pytest.mark.parametrize(
    ("options", "step", "says"),
    [
        ({}, {}, r"^grads: is sparse. Make the optimiser with sparse='lazy'"),
        ({"sparse": "lazy"}, {"out": np.zeros((3, 2))}, r"^out: sparse='lazy'"),
    ],
)
def test_refused_steps(options, step, says):
    p = np.ones((3, 2))
    opt = na.Adam(p, lr=0.1, **options)
    with pytest.raises(ValueError, match=says):
        opt.step(na.Rows(np.array([1]), np.ones((1, 2))), **step)
    assert opt.t == 0
    assert (p == 1).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accumulate": 2}, r"^accumulate: with sparse='lazy'"),
        ({"ema": 0.9}, r"^ema: sparse='lazy'"),
        ({"bounds": (0, 1), "clip_norm": 1.0}, r"^bounds: with sparse='lazy'"),
        ({"bounds": (0, 1), "nonfinite": "skip"}, r"^bounds: with sparse='lazy'"),
    ],
)
def test_refused_options(options, says):
    with pytest.raises(ValueError, match=says):
        na.Adam(np.ones((3, 2)), sparse="lazy", **options)


def test_complex_parameters_take_dense_gradients_only():
    opt = na.Adam(np.ones((3, 2), complex), lr=0.1, sparse="dense", complex_form="modulus")
    with pytest.raises(TypeError, match=r"^grads: is sparse, but the parameters are complex"):
        opt.step(na.Rows(np.array([1]), np.ones((1, 2))))

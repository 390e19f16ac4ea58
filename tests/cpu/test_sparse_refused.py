"""Sparse gradients that are refused, or fail on the way, leave all as it was."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array

import numadam as na
from numadam import Rows
from numadam._cpu import step as cpu_sparse
from tests.cpu.sparse_leaves import HOW
from tests.runs import digest


def bad_gradients():
    one, rows = np.array([1]), np.ones((1, 4))
    table = np.ones((30, 4))
    return {
        "another dtype": (Rows(one, rows.astype("f4")), TypeError, "values: expected float64"),
        "another width": (Rows(one, np.ones((1, 3))), ValueError, "values: expected shape (1, 4)"),
        "beyond the end": (Rows(np.array([30]), rows), ValueError, "indices: got the row 30"),
        "CSR of another shape": (csr_array(np.ones((31, 4))), ValueError, "expected shape (30, 4)"),
        "CSC": (csc_array(table), TypeError, "expected a sparse matrix in CSR format, got CSC"),
        "CSR of another dtype": (csr_array(table.astype("f4")), TypeError, "expected float64"),
    }


@HOW
@pytest.mark.parametrize("case", bad_gradients())
@pytest.mark.parametrize("seat", [0, 1])
def test_refused_gradients_leave_all_as_it_was(case, seat, how):
    """Also where another sparse leaf was right: the next step finds a table that is whole."""
    bad, error, says = bad_gradients()[case]
    params = [np.ones((30, 4)), np.ones((30, 4)), np.ones(3)]
    opt = na.Adam(params, sparse=how)
    good = [Rows(np.array([2, 5]), np.ones((2, 4))), csr_array(np.eye(30, 4)), np.ones(3)]
    opt.step(good)
    before = digest(opt)
    grads = list(good)
    grads[seat] = bad
    with pytest.raises(error) as caught:
        opt.step(grads)
    assert str(caught.value).startswith(f"grads[{seat}]")
    assert says in str(caught.value)
    for wrong in (np.ones(4), good[0], None):
        with pytest.raises((TypeError, ValueError), match=r"^grads\[2\]"):
            opt.step([good[0], good[1], wrong])
    assert digest(opt) == before
    untouched = na.Adam([np.ones((30, 4)), np.ones((30, 4)), np.ones(3)], sparse=how)
    untouched.step(good)
    for one in (opt, untouched):
        one.step([np.ones((30, 4)), good[0], np.ones(3)])
        one.step(good)
    assert digest(opt) == digest(untouched)


@pytest.mark.parametrize(
    ("how", "owner", "name"),
    [("lazy", cpu_sparse.SparseGradients, "_in_order"), ("dense", cpu_sparse, "scatter")],
)
def test_an_exception_between_two_sparse_leaves(how, owner, name, monkeypatch):
    """Ctrl-C, or no memory: nothing is written, and nothing of the first leaf stays lent."""
    opt, untouched = (na.Adam([np.ones((30, 4)), np.ones((30, 4))], sparse=how) for _ in range(2))
    good = [Rows(np.array([2, 5]), np.ones((2, 4))), csr_array(np.eye(30, 4))]
    real, calls = getattr(owner, name), []

    def failing(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    for one in (opt, untouched):
        one.step(good)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(KeyboardInterrupt):
            opt.step(good)
    assert len(calls) == 2
    assert digest(opt) == digest(untouched)
    for one in (opt, untouched):
        one.step([np.ones((30, 4)), good[0]])
        one.step([good[1], np.ones((30, 4))])
        one.step(good)
    assert digest(opt) == digest(untouched)


def test_sparse_gradients_need_the_option():
    opt = na.Adam(np.ones((4, 3)))
    for grads in (Rows(np.array([1]), np.ones((1, 3))), csr_array(np.eye(4, 3))):
        with pytest.raises(
            ValueError, match=r"^grads: is sparse\. Make the optimiser with sparse='"
        ):
            opt.step(grads)
    assert opt.t == 0
    opt = na.Adam(np.ones((4, 3), complex), sparse="dense")
    with pytest.raises(TypeError, match=r"^grads: is sparse, but the parameters are complex"):
        opt.step(csr_array(np.eye(4, 3, dtype=complex)))


def test_rows_that_share_memory_with_what_is_written():
    """Lazily they are read while the step writes; densely they are copied first."""
    for kept in ("p", "m"):
        opt = na.Adam(np.arange(12.0).reshape(4, 3), sparse="lazy")
        before = digest(opt)
        shared = opt.params if kept == "p" else opt.state["m"]
        with pytest.raises(ValueError, match=r"^grads shares memory with (params|state\['m'\])"):
            opt.step(Rows(np.array([1, 2]), shared[:2]))
        assert digest(opt) == before
        opt.step(Rows(np.array([1, 2]), shared[:2].copy()))
        assert opt.t == 1
    opt = na.Adam(np.arange(12.0).reshape(4, 3), 0.1, sparse="dense")
    opt.step(Rows(np.array([1, 2]), opt.params[:2]))
    np.testing.assert_allclose(opt.params[1:3], [[3, 3.9, 4.9], [5.9, 6.9, 7.9]], rtol=1e-7)


def test_rows_of_the_parameters_themselves_are_refused_where_they_are_read_in_place():
    p = np.ones((6, 2))
    opt = na.SGD(p, lr=1.0, sparse="lazy")
    with pytest.raises(ValueError, match="grads shares memory with params"):
        opt.step(Rows(np.array([0, 3]), p[:2]))
    assert opt.t == 0
    assert np.all(p == 1)


@pytest.mark.parametrize("share", ["values", "out"])
def test_rows_in_memory_that_is_written_and_a_direction_of_some_rows(share):
    p = np.ones((4, 3))
    opt = na.SGD(p, lr=0.5, sparse="lazy")
    if share == "values":
        with pytest.raises(ValueError, match=r"^(grads|params).*share"):
            opt.step(Rows(np.array([1]), p[2:3]))
    else:
        with pytest.raises(
            ValueError, match=r"^out: sparse='lazy' gives a direction in some rows only"
        ):
            opt.step(Rows(np.array([1]), np.ones((1, 3))), out=np.zeros((4, 3)))
    assert opt.t == 0
    assert (p == 1.0).all()

"""On a GPU: sparse gradients, as rows and as matrices."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na
from numadam._arrays.sparse import Rows
from tests import extras
from tests.cuda.cuda_cases import moved


def gradients(asarray):
    """Rows of ``{"w": (6, 2, 3), "b": (5,)}``, among them one that comes twice, and none at all."""
    random = np.random.default_rng(2)
    for indices in ([4, 1, 4, 0], [2], []):
        w = random.standard_normal((len(indices), 2, 3)).astype("f4")
        b = random.standard_normal(len(indices)).astype("f4")
        rows = asarray(np.array(indices, int))
        yield {"w": Rows(rows, asarray(w)), "b": Rows(rows, asarray(b))}


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("how", ["lazy", "dense"])
@pytest.mark.parametrize("order", ["C", "axes in another order", "strided"])
def test_rows_of_any_layout_as_on_the_cpu(cp, how, order, options):
    left = []
    for xp in (np, cp):
        w = xp.arange(36, dtype="f4").reshape(6, 3, 2).transpose(0, 2, 1)
        params = {"w": w, "b": xp.ones(5, "f4")}
        if order == "C":
            params["w"] = w.copy(order="C")
        if order == "strided":
            params["b"] = xp.ones((5, 2), "f4")[:, 1]
        opt = na.Adam(params, sparse=how, **options)
        for grads in gradients(xp.asarray):
            opt.step(grads)
        opt.step({"w": xp.ones((6, 2, 3), "f4"), "b": grads["b"]})  # sparse beside dense
        norm = opt.grad_norm if options else 0.0
        arrays = [*params.values(), *opt.state["m"].values(), *opt.state["v"].values()]
        left.append((norm, [cp.asnumpy(array) for array in arrays]))
    (norm, wanted), (on_gpu, got) = left
    assert on_gpu == pytest.approx(norm, rel=1e-14)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (na.Adam, {"clip_norm": 0.5, "nonfinite": "skip"}),
        (na.NAdam, {"groups": {"b": {"lr": 0.3, "beta2": 0.9}}, "weight_decay": 0.1}),
    ],
)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_with_counts_of_their_own_as_on_the_cpu(cp, tmp_path, rule, options, dtype):
    left = []
    for xp in (np, cp):
        random = np.random.default_rng(4)
        params = {"w": xp.ones((6, 2, 3), dtype), "b": xp.ones((5, 2), dtype)[:, 1]}
        opt = rule(params, sparse="lazy", count="row", **options)
        start = opt.snapshot()
        for k in range(8):
            grads = {"w": random.standard_normal((6, 2, 3)), "b": random.standard_normal(5)}
            grads = {name: xp.asarray(g.astype(dtype)) for name, g in grads.items()}
            masks = {name: xp.asarray(random.random(len(g)) < 0.4) for name, g in grads.items()}
            if k == 2:
                grads["b"][0] = np.nan if "nonfinite" in options else 1.0
                masks["b"][0] = True
            if k == 6:
                grads = {"w": Rows(masks["w"], grads["w"][masks["w"]]), "b": grads["b"]}
            opt.step(grads, rows=None if k > 4 else masks)
        counts = opt.state["row_counts"]
        arrays = [*params.values(), *opt.state["m"].values(), *counts.values()]
        left.append([cp.asnumpy(array).copy() for array in arrays])
        opt.save(tmp_path / "run")
        again = na.load(tmp_path / "run", xp=xp)
        assert (again.state["row_counts"]["w"] == counts["w"]).all()
        opt.restore(start)
        assert not opt.state["row_counts"]["w"].any()
    assert left[0][-1].max() > left[0][-1].min()
    for got, wanted in zip(*left, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5 if dtype == "f4" else 1e-12)


def test_masks_as_on_the_cpu(cp):
    left, random = [], np.random.default_rng(3)
    grads = {"w": random.standard_normal((6, 2)), "b": random.standard_normal(5)}
    masks = {"w": random.random(6) < 0.5, "b": np.zeros(5, bool)}
    for xp in (np, cp):
        params = {"w": xp.ones((6, 2)), "b": xp.ones(5)}
        opt = na.Adam(params, sparse="lazy", clip_norm=0.5)
        g, rows = ({k: xp.asarray(x) for k, x in one.items()} for one in (grads, masks))
        opt.step(g, rows=rows)
        opt.step({"w": Rows(rows["w"], g["w"][rows["w"]]), "b": g["b"]})
        left.append([cp.asnumpy(a) for a in (*params.values(), *opt.state["v"].values())])
    for one, other in zip(*left, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    with pytest.raises(TypeError, match=r"^rows\['w'\]: expected a CuPy array, got numpy"):
        opt.step(g, rows=masks)
    with pytest.raises(ValueError, match=r"^rows\['w'\]: expected a mask of shape \(6,\)"):
        opt.step(g, rows={"w": rows["b"], "b": None})
    assert opt.t == 2


def test_a_sparse_matrix(cp):
    import cupyx.scipy.sparse
    import scipy.sparse

    matrix = scipy.sparse.random_array((70, 40), density=0.1, rng=3, format="csr", dtype="f4")
    matrix = scipy.sparse.csr_matrix(matrix)
    on_cpu, on_gpu = np.ones((70, 40), np.float32), cp.ones((70, 40), np.float32)
    try:
        theirs = cupyx.scipy.sparse.csr_matrix(matrix)
    except ImportError as error:  # no wheel that numadam asks for brings it
        extras.need_machine(False, f"cuSPARSE: {str(error).partition(',')[0]}")
    na.Adam(on_cpu, sparse="lazy").step(matrix)
    na.Adam(on_gpu, sparse="lazy").step(theirs)
    np.testing.assert_allclose(cp.asnumpy(on_gpu), on_cpu, rtol=1e-6)


def test_lazy_steps_leave_other_rows_outside_of_all(cp):
    left, options = [], {"lr": {"x": np.array([9.0, 1.0, 9.0, 2.0])}}
    options |= {"bounds": {"x": (np.zeros(4), 4.5)}}
    for xp in (np, cp):
        p = xp.asarray(np.array([0.0, 5.0, 5.0, 0.0], np.float32))
        opt = na.SGD({"x": p}, sparse="lazy", momentum=0.9, **moved(options, xp.asarray))
        for sign in (1, -1):
            values = xp.asarray(np.array([3, sign], np.float32))
            opt.step({"x": Rows(xp.asarray(np.array([1, 3])), values)})
        left.append(cp.asnumpy(p))
    np.testing.assert_array_equal(left, [[0, 0, 4.5, 2]] * 2)


def test_bad_sparse_gradients_are_refused(cp):
    p, row = cp.ones(4), cp.asarray(np.array([1]))
    z = cp.zeros(3, np.complex128)
    opt = na.Adam(p, sparse="lazy")
    refused = [
        (ValueError, r"grads: is sparse\. Make .* sparse='lazy'", na.Adam(p), (row, cp.ones(1))),
        (TypeError, r"grads: expected a CuPy array, got numpy", opt, (np.array([1]), np.ones(1))),
        (ValueError, "grads.indices: got the row 4", opt, (cp.asarray([4]), cp.ones(1))),
        (ValueError, "grads.values shares memory with params", opt, (row, p[:1])),
        (
            ValueError,
            "rows lie together",
            na.Adam(cp.ones((2, 3)).T, sparse="lazy"),
            (row, cp.ones((1, 2))),
        ),
        (TypeError, "parameters are complex", na.Adam(z, sparse="dense"), (row, cp.ones(1))),
    ]
    for error, text, optimizer, (indices, values) in refused:
        with pytest.raises(error, match=text):
            optimizer.step(Rows(indices, values))
        assert optimizer.t == 0
    assert (p == 1).all()


@pytest.mark.parametrize("how", ["lazy", "dense"])
def test_sparse_gradients_on_a_gpu_are_refused_on_the_cpu(cp, how):
    """As what they are: neither NumPy's refusal to convert them, nor a missing attribute."""
    p = np.ones((4, 2))
    opt = na.Adam(p, sparse=how)
    with pytest.raises(TypeError, match=r"^grads: expected a NumPy array, got cupy.*asnumpy"):
        opt.step(Rows(cp.asarray(np.array([1])), cp.ones((1, 2))))
    assert opt.t == 0
    assert (p == 1).all()

"""Arrays of other libraries: gradients, read through views and never copied, or refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import numadam
import numadam as na
from tests.trees import Exported


class Interface:
    """The same by NumPy's array interface."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    @property
    def __array_interface__(self):
        return self.array.__array_interface__


class OnGpu(Exported):
    def __dlpack_device__(self):
        return (2, 0)


@pytest.mark.parametrize("kind", [Exported, Interface])
def test_as_gradients_they_are_read_where_they_lie(kind):
    p, twin = np.ones(4), np.ones(4)
    g = np.array([1.0, -2.0, 3.0, 0.0])
    opt, other = na.Adam({"a": p}, lr=0.1), na.Adam({"a": twin}, lr=0.1)
    for _ in range(3):
        opt.step({"a": kind(g)})
        other.step({"a": g})
    np.testing.assert_array_equal(p, twin)
    m, v = np.zeros((2, 4))
    na.adam_update(p, kind(g), m, v, 1)
    out = np.empty(4)
    na.adam_update(None, kind(g), m, v, 2, out=out)
    assert out.any()


@pytest.mark.parametrize("kind", [Exported, Interface])
def test_as_parameters_they_are_refused(kind):
    p, g, m, v = np.ones(3), np.ones(3), np.zeros(3), np.zeros(3)
    opt = na.SGD(p, lr=1.0)
    for name, call in {
        "params": lambda: na.SGD(kind(p)),
        "params['a']": lambda: na.SGD({"a": kind(p), "b": p}),
        "params[1]": lambda: na.SGD([p, kind(np.ones(2))]),
        "p": lambda: na.adam_update(kind(p), g, m, v, 1),
        "m": lambda: na.adam_update(p, g, kind(m), v, 1),
        "out": lambda: opt.step(g, out=kind(np.ones(3))),
    }.items():
        with pytest.raises(TypeError, match=rf"^{re.escape(name)}: expected a .* array, got .*"):
            call()
    with pytest.raises(TypeError, match=r"^params: expected a NumPy array, got"):
        opt.step(g, params=kind(np.ones(3)))
    assert (p == 1).all()
    opt.step(g, params=kind(p), out=np.empty(3))  # then they are only read


def test_what_is_wrong_with_them_is_said_as_of_any_array():
    opt = na.SGD(np.ones(3))
    with pytest.raises(ValueError, match=r"grads: expected shape \(3,\)"):
        opt.step(Exported(np.ones(4)))
    with pytest.raises(TypeError, match="grads: expected float64 like params, got float32"):
        opt.step(Exported(np.ones(3, np.float32)))
    with pytest.raises(TypeError, match=r"got complex128. Use x.real, if that is what you mean.$"):
        opt.step(np.ones(3, complex))
    with pytest.raises(TypeError, match=r"grads: expected a NumPy array, got .*OnGpu"):
        opt.step(OnGpu(np.ones(3)))
    p = np.ones(3)
    with pytest.raises(ValueError, match="shares memory"):
        na.SGD(p).step(Exported(p))
    assert opt.t == 0


class Deleted(Exported):
    def __dlpack__(self, **how):
        raise BufferError("deleted")


class Nowhere(Exported):
    def __dlpack_device__(self):
        raise BufferError("deleted")


def test_where_their_library_gives_no_view_its_error_says_which_array():
    opt, x = na.SGD({"a": np.ones(3)}), np.ones(3)
    for name, step in {
        "grads['a']": lambda: opt.step({"a": Nowhere(x)}),
        "grads": lambda: na.SGD(x).step(Deleted(np.ones(3))),
        "g": lambda: na.adam_update(x, Deleted(np.ones(3)), np.zeros(3), np.zeros(3), 1),
    }.items():
        with pytest.raises(BufferError, match="deleted") as caught:
            step()
        assert caught.value.__notes__ == [f"This is about {name}."]


def test_a_minimisation_starts_from_them():
    x0 = np.array([1.0, 2.0])
    res = na.minimize(lambda x: (x @ x, 2 * x), Exported(x0), jac=True, lr=0.1, maxiter=5)
    assert isinstance(res.x, np.ndarray)
    np.testing.assert_array_equal(x0, [1, 2])


# --- the libraries themselves ---------------------------------------------------------------------


@pytest.mark.peers("torch")
def test_torch_tensors_are_gradients_and_share_their_memory_as_parameters():
    import torch

    weight = torch.nn.Parameter(torch.ones(4, 3))
    (weight**2).sum().backward()
    with pytest.raises(TypeError) as caught:
        na.Adam({"w": weight})
    assert str(caught.value) == (
        "params['w']: expected a NumPy or CuPy array, got torch.nn.parameter.Parameter on cpu. "
        "Use x.detach().numpy(), which has the same memory."
    )
    na.Adam({"w": weight.detach().numpy()}, lr=0.1).step({"w": weight.grad})
    assert torch.allclose(weight, torch.full((4, 3), 0.9))


@pytest.mark.peers("jax")
def test_jax_arrays_are_gradients_and_no_parameters():
    import jax

    x = np.ones(3, np.float32)
    opt = na.SGD(x, lr=1.0)
    opt.step(jax.numpy.ones(3))
    assert not x.any()
    with pytest.raises(TypeError, match=r"params: .* which is read-only.* or out=\.\.\."):
        na.SGD(jax.numpy.ones(3))
    # with out= the parameters are only read
    p, out, m, v = jax.numpy.ones(3), np.ones(3, np.float32), *np.zeros((2, 3), np.float32)
    opt.step(jax.numpy.ones(3), params=p, out=out)
    np.testing.assert_array_equal(out, -1)
    na.adam_update(p, jax.numpy.ones(3), m, v, 1, lr=0.5, out=out)
    np.testing.assert_allclose(out, -0.5, rtol=1e-6)
    with pytest.raises(TypeError, match=r"params: .* which is read-only"):
        opt.step(jax.numpy.ones(3), params=p)
    with pytest.raises(TypeError, match=r"p: .* which is read-only"):
        na.adam_update(p, jax.numpy.ones(3), m, v, 2)


def test_one_file_asks_whether_an_array_is_cupys():
    files = Path(numadam.__file__).parent.rglob("*.py")
    asking = [path.name for path in files if "is_cupy_array" in path.read_text()]
    assert asking == ["interop.py"]

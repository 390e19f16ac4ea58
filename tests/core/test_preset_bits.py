"""like=...: the arithmetic of other libraries, bit for bit or within a stated bound."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from numadam import rules
from numadam._core.synonyms import LIKE
from tests import references as ref
from tests.bits import assert_same_bits

RULES = rules.classes()

# --- bit for bit ---------------------------------------------------------------------------------


def gradients(dtype, n=64):
    """60 steps of every size: zeros, both signs of 0, denormal gradients, moments and squares."""
    rng = np.random.default_rng(3)
    info = np.finfo(dtype)
    low, high = math.log10(info.smallest_normal), math.log10(info.max) / 2 - 1
    grads = rng.standard_normal((60, n)) * 10.0 ** np.linspace(low, high, n)
    grads[:, 0], grads[:, 1] = 0.0, -0.0
    grads[1:, 2:8] = 0.0  # one gradient, then none for ever
    grads[:, 8] = info.smallest_subnormal
    grads[:, 10:16] = rng.standard_normal((60, 6)) * float(info.smallest_normal)
    grads[:, 16:22] = rng.standard_normal((60, 6)) * float(info.smallest_normal) ** 0.5
    grads[:, 9] = np.where(rng.random(60) < 0.1, 1.0, 0.0)
    grads[7] = 0.0
    return grads.astype(dtype)


F32 = np.float32


def classic(like, t, lr, b1, b2, eps, cast):
    """NumPy codes: everything in float64 and rounded once."""
    c1, c2 = 1.0 - b1**t, 1.0 - b2**t
    s = lr if like in ("numpy", "quimb") else lr * math.sqrt(c2) / c1
    return [cast(x) for x in (1.0 - b1, 1.0 - b2, c1, c2, s, eps)]


def tensorflow(like, t, lr, b1, b2, eps, cast):
    """Keras 3 and TF1: which of it is in float32 (a1, a2, c1, c2, alpha, eps)."""
    if like != "tf1":
        held = cast if like == "keras-jax" else F32
        a1, a2 = cast(1.0 - b1), cast(1.0 - b2)
        c1, c2 = (cast(1) - cast(math.pow(float(held(b)), t)) for b in (b1, b2))
    else:
        lr, b1, b2, eps = F32(lr), F32(b1), F32(b2), F32(eps)
        a1, a2 = cast(1) - cast(b1), cast(1) - cast(b2)
        c1, c2 = (cast(1) - cast(np.multiply.reduce(np.full(t, b))) for b in (b1, b2))
    return a1, a2, c1, c2, cast(lr) * np.sqrt(c2) / c1, cast(eps)


def emulated(like, p, grads, amsgrad, lr, b1=0.9, b2=0.999, eps=1e-8):
    """The NumPy expression of each library: (p, m, v, vmax) after every step."""
    cast = p.dtype.type
    m, v, vmax = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    form = tensorflow if like in ("keras", "keras-jax", "tf1") else classic
    for t, g in enumerate(grads, 1):
        a1, a2, c1, c2, s, e = form(like, t, lr, b1, b2, eps, cast)
        if form is tensorflow:
            m, v = m + (g - m) * a1, v + (g * g - v) * a2
        else:
            m, v = cast(b1) * m + a1 * g, cast(b2) * v
            v = v + (a2 * g * g if like == "qiskit" else a2 * (g * g))
        vmax = np.maximum(vmax, v)
        u = vmax if amsgrad else v
        if like == "numpy":
            p = p - (s * (m / c1)) / (np.sqrt(u / c2) + e)
        elif like == "quimb":
            p = p - s * ((m / c1) / (np.sqrt(u / c2) + e))
        else:
            p = p - (m * s) / (np.sqrt(u) + e)
        yield p, m, v, vmax


@pytest.mark.parametrize("amsgrad", [False, True], ids=["plain", "amsgrad"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("like", [like for like, one in LIKE.items() if one.bit_exact])
def test_bits_of_the_library(like, dtype, amsgrad):
    grads = gradients(dtype)
    start = np.random.default_rng(0).standard_normal(64).astype(dtype)
    given = {"lr": 0.01, "beta2": 0.999, "like": like}
    opt = na.Adam(start.copy(), amsgrad=amsgrad, **given)
    p, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    vmax = {"vmax": np.zeros_like(start)} if amsgrad else {}
    eps = 1e-7 if like.startswith("keras") else 1e-8
    tiny, denormal = np.finfo(dtype).smallest_normal, 0
    for t, expected in enumerate(emulated(like, start, grads, amsgrad, 0.01, eps=eps), 1):
        opt.step(grads[t - 1])
        na.adam_update(p, grads[t - 1], m, v, t, **given, **vmax)
        got = [opt.params, opt.state["m"], opt.state["v"]]
        for one, bare, other in zip(got, (p, m, v), expected, strict=False):
            assert_same_bits(one, other, f"step {t}")
            assert_same_bits(bare, other, f"step {t}")
        if amsgrad:
            assert_same_bits(opt.state["vmax"], expected[3])
        denormal += int(((expected[1] != 0) & (np.abs(expected[1]) < tiny)).sum())
    assert denormal > 60  # and none of them was flushed


def test_other_presets_flush_denormal_moments():
    grads = gradients("float32")
    for like in (None, "torch", "optax"):
        opt = na.Adam(np.ones(64, "f4"), lr=0.01, like=like)
        for g in grads:
            opt.step(g)
        m = np.abs(opt.state["m"])
        assert not ((m != 0) & (m < np.finfo("f4").smallest_normal)).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_scikit_learn_itself(dtype):
    """Its moments too; in float32 its step size is a NumPy scalar, so its last line is float64."""
    module = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    grads = gradients(dtype)
    theirs, ours = [np.ones(64, dtype)], np.ones(64, dtype)
    sklearn = module.AdamOptimizer(theirs, 0.01)
    opt = na.Adam(ours, lr=0.01, like="sklearn")
    for g in grads:
        sklearn.update_params(theirs, [g])
        opt.step(g)
    if dtype == "float64":
        assert_same_bits(ours, theirs[0])
    assert_same_bits(opt.state["m"], sklearn.ms[0])
    assert_same_bits(opt.state["v"], sklearn.vs[0])
    assert np.abs(ours - theirs[0]).max() <= 2 * np.finfo(dtype).eps * np.abs(ours).max()


# --- torch and optax: to rounding ----------------------------------------------------------------

#: further rules: test_golden.py
NEAR = {
    "Adam": {"torch": {}, "optax": {}},
    "AdamW": {
        "torch": {"weight_decay": 0.01, "decoupled": True},
        "optax": {"weight_decay": 1e-4, "decoupled": True},
    },
}


@pytest.mark.parametrize("like", ["torch", "optax"])
@pytest.mark.parametrize("name", NEAR)
def test_near_the_papers_in_float64(like, name):
    grads = np.random.default_rng(2).standard_normal((60, 50))
    p = np.linspace(-1, 1, 50)
    opt = RULES[name](p, like=like)
    for g in grads:
        opt.step(g)
    expected, _ = ref.steps("adam")(np.linspace(-1, 1, 50), grads, lr=1e-3, **NEAR[name][like])
    np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-13)


#: name: (torch's class and its options, ours, dtype, largest |difference| in eps of largest |p|)
LIVE = {
    "Adam": ("Adam", {}, {}, "float32", 4),
    "amsgrad": ("Adam", {"amsgrad": True}, {"amsgrad": True}, "float32", 4),
    "l2": ("Adam", {"weight_decay": 0.1}, {"weight_decay": 0.1}, "float64", 8),
    "AdamW": ("AdamW", {}, {}, "float64", 10),
    "clip_grad_norm_": ("Adam", {}, {"clip_norm": 0.5}, "float64", 8),
    "complex": ("Adam", {}, {}, "complex128", 8),
}


@pytest.mark.peers("torch")
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", LIVE)
def test_near_torch_itself(name, foreach):
    import torch

    rule, theirs, ours, dtype, ulps = LIVE[name]
    rng = np.random.default_rng(4)
    start, *grads = rng.standard_normal((61, 200, 2)).view(complex)[..., 0]
    if dtype != "complex128":
        start, *grads = (np.ascontiguousarray(x.real).astype(dtype) for x in (start, *grads))
    grads[7][:] = 0
    p, q = start.copy(), torch.nn.Parameter(torch.from_numpy(start.copy()))
    opt = RULES[rule](p, like="torch", lr=0.01, **ours)
    other = getattr(torch.optim, rule)([q], lr=0.01, foreach=foreach, **theirs)
    largest = 0.0
    for g in grads:
        opt.step(g)
        q.grad = torch.from_numpy(g.copy())
        if "clip_norm" in ours:
            norm = torch.nn.utils.clip_grad_norm_([q], ours["clip_norm"])
            assert opt.grad_norm == pytest.approx(float(norm), rel=1e-14)
        other.step()
        largest = max(largest, float(np.abs(p).max()))
    apart = float(np.abs(p - q.detach().numpy()).max())
    assert apart <= ulps * np.finfo(dtype).eps * largest

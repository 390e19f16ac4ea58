"""The functional API: one step on arrays that the caller owns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numadam as na
from tests.bits import DTYPES, OPTIONS, RULES, assert_same_bits, gradients, starts
from tests.trees import LAYOUTS, lay, relaxed, shapes


def call(name, p, g, state, t, lr=0.01, out=None):
    """One step on these arrays by the function that is the rule of this name."""
    rule, options = OPTIONS[name]
    options = {key: value for key, value in options.items() if key != "amsgrad"}
    if rule == "adam":
        options["t"] = t
    getattr(na, f"{rule}_update")(p, g, **state, lr=lr, out=out, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_the_same_bits_as_the_class_and_the_reference(name, dtype):
    make, bits, _ = RULES[name]
    grads = gradients(dtype)[:10]
    p = starts(dtype, grads.shape[1])
    q, r, expected = p.copy(), p.copy(), {}
    opt = make(q, 0.01)
    state = {key: np.zeros_like(p) for key in opt.state if key != "t"}
    for t, g in enumerate(grads, 1):
        call(name, p, g, state, t)
        opt.step(g)
        r = bits(r, g, t, expected, 0.01)
        assert_same_bits(p, q)
        assert_same_bits(p, r)
        for key in state:
            assert_same_bits(state[key], opt.state[key])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_out(name, dtype):
    g = gradients(dtype)[0]
    p = starts(dtype, g.size)
    q, before, out = p.copy(), p.copy(), np.full_like(p, 9)
    keys = [key for key in RULES[name][0](p.copy(), 0.1).state if key != "t"]
    state, other = ({key: np.full_like(p, 0.5) for key in keys} for _ in range(2))
    call(name, p, g, state, 3, out=out)
    assert_same_bits(p, before)
    call(name, q, g, other, 3)
    assert_same_bits(p + out, q)
    for key in keys:
        assert_same_bits(state[key], other[key])
    call(name, p, g, state, 4)  # without out it is applied again
    call(name, q, g, other, 4)
    assert np.array_equal(p, before) == ("beta2 1" in name)


@relaxed
@given(
    shapes,
    st.lists(st.sampled_from(list(LAYOUTS)), min_size=6, max_size=6),
    st.sampled_from(DTYPES),
    st.sampled_from(["adam paper", "adam hat amsgrad", "rmsprop", "sgd", "sgd nesterov"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_layout_of_every_array(shape, layouts, dtype, name, with_out, seed):
    """Each of p, g, m, v, vmax, out in a layout of its own: the bits of contiguous arrays."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.random(shape), dtype) for _ in range(6)]
    p, g, m, v, vmax, out = (lay(a, layout) for a, layout in zip(arrays, layouts, strict=True))
    p2, g2, m2, v2, vmax2, out2 = (a.copy() for a in arrays)
    keys = [key for key in RULES[name][0](p2.copy(), 0.1).state if key != "t"]
    state = {key: a for key, a in (("m", m), ("v", v), ("vmax", vmax)) if key in keys}
    state2 = {key: a for key, a in (("m", m2), ("v", v2), ("vmax", vmax2)) if key in keys}
    for t in (1, 2):
        call(name, p, g, state, t, out=out if with_out else None)
        call(name, p2, g2, state2, t, out=out2 if with_out else None)
    for a, b in zip((p, g, m, v, vmax, out), (p2, g2, m2, v2, vmax2, out2), strict=True):
        assert_same_bits(np.asarray(a), np.asarray(b))


def test_state_after_a_call_without_it_is_not_reused():
    """A call of the same shapes and other arrays just before leaves nothing behind."""
    a, m, v = np.ones(4), np.zeros(4), np.zeros(4)
    na.adam_update(a, np.ones(4), m, v, 1)
    kept = m.copy(), v.copy()
    with pytest.raises((TypeError, ValueError), match=r"^(m|v): "):
        na.adam_update(np.ones(4), np.ones(4), None, v, 1)
    assert_same_bits(m, kept[0])
    assert_same_bits(v, kept[1])


def test_with_out_the_parameters_are_only_read():
    """They may be read-only, broadcast, strided, or the gradient itself."""
    base = np.random.default_rng(0).standard_normal(4) ** 2
    locked = base.copy()
    locked.flags.writeable = False
    strided = np.repeat(base, 2)[::2]
    for p in (locked, strided, np.broadcast_to(base[:1], (4,))):
        out, m, v = np.zeros(4), np.zeros(4), np.zeros(4)
        na.adam_update(p, p, m, v, 1, out=out)
        expected, q, m, v = np.zeros(4), p.copy(), np.zeros(4), np.zeros(4)
        na.adam_update(q, p.copy(), m, v, 1, out=expected)
        assert_same_bits(out, expected)


def test_many_shapes_from_many_threads():
    """The tables that calls take turns with are few, also where calls are refused."""
    from concurrent.futures import ThreadPoolExecutor

    from numadam._cpu import backend as cpu_update

    def work(n):
        p = np.zeros(n)
        na.sgd_update(p, np.ones(n), lr=1.0)
        with pytest.raises(TypeError):
            na.sgd_update(np.zeros(n, int), np.ones(n))
        return (p == -1).all()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(1, 700)))
    assert len(cpu_update._free) <= cpu_update._KEYS + 4


@pytest.mark.parametrize("t", [1, np.int32(1), np.array(1), True])
def test_t_may_be_any_integer(t):
    p, q = np.ones(3), np.ones(3)
    na.adam_update(p, np.ones(3), np.zeros(3), np.zeros(3), t)
    na.Adam(q).step(np.ones(3))
    assert_same_bits(p, q)


def test_options_are_keyword_only():
    p, g, m, v = np.ones(3), np.ones(3), np.zeros(3), np.zeros(3)
    with pytest.raises(TypeError):
        na.adam_update(p, g, m, v, 1, 0.1)
    with pytest.raises(TypeError):
        na.rmsprop_update(p, g, v, 0.1)
    with pytest.raises(TypeError):
        na.sgd_update(p, g, m, 1, 0.1)


def test_nothing_is_kept():
    """Arrays of many shapes come and go; none is held, and none is mixed up with another."""
    import gc
    import weakref

    alive = []
    for n in range(300):
        p, m, v = np.ones(n), np.zeros(n), np.zeros(n)
        na.adam_update(p, np.full(n, 2.0), m, v, 1, lr=0.5)
        assert np.allclose(p, 0.5)
        alive.append(weakref.ref(p))
    del p, m, v
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_subclass_memmap_and_broadcast(tmp_path):
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(3, 4))
    p[...] = 1
    g = np.broadcast_to(np.float32(1), (3, 4))
    m, v = np.zeros((3, 4), np.float32, order="F"), np.zeros((4, 3), np.float32).T
    na.adam_update(p, g, m, v, 1, lr=0.25)
    assert np.allclose(p, 0.75)
    assert m[2, 3] == np.float32(1 - 0.9)


def test_inside_of_a_longer_buffer():
    """As PaCMAP calls: the gradient has a row more, slices of long arrays, float32."""
    rng = np.random.default_rng(0)
    y, grad = rng.standard_normal((5, 2), np.float32), rng.standard_normal((6, 2), np.float32)
    m, v = np.zeros((5, 2), np.float32), np.zeros((5, 2), np.float32)
    copy = y.copy()
    opt = na.Adam(copy, lr=0.1, eps=1e-7, eps_form="hat")
    for t in range(1, 4):
        na.adam_update(y, grad[:-1], m, v, t, lr=0.1, eps=1e-7, eps_form="hat")
        opt.step(grad[:-1])
    assert_same_bits(y, copy)

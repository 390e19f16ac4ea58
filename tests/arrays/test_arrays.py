"""Which arrays are right and which are refused: shapes, strides, nesting, dtypes, overlap."""

from __future__ import annotations

import gc
import re
import warnings
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numadam as na
from tests.bad_arrays import BAD, assert_unchanged, matches, on_cupy, snapshot
from tests.bits import KERNELS, RULES, assert_same_bits
from tests.trees import (
    LAYOUTS,
    Pair,
    assert_leaves,
    assert_same_containers,
    lay,
    relaxed,
    shapes,
    tree_leaves,
    tree_map,
)

# --- trees, without numadam and without optree ---------------------------------------------------


# --- properties ----------------------------------------------------------------------------------


leaf = st.tuples(shapes, *[st.sampled_from(list(LAYOUTS))] * 3)
keys = st.sampled_from(["w", "b", "layer 1", "it's", 0, 7])


def containers(children):
    dicts = st.dictionaries(keys, children, max_size=3)
    return st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=3).map(tuple),
        dicts,
        dicts.map(OrderedDict),
        st.tuples(children, children).map(lambda pair: Pair(*pair)),
    )


class Spec:
    """A leaf of a drawn tree: a shape, and a layout each for parameter, gradient and out."""

    def __init__(self, drawn):
        self.shape, *self.layouts = drawn

    def __repr__(self):
        return f"Spec{(self.shape, *self.layouts)}"


trees = st.recursive(leaf.map(Spec), containers, max_leaves=8).filter(
    lambda tree: len(tree_leaves(tree)) > 0
)


@relaxed
@given(trees, st.sampled_from(["float32", "float64"]), st.sampled_from(KERNELS), st.integers(0, 99))
def test_any_tree_of_any_arrays(tree, dtype, name, seed):
    """Every leaf takes exactly the reference's steps, in place; `out` is the direction."""
    rng = np.random.default_rng(seed)
    make, bits, _ = RULES[name]

    def draw(spec, k):
        return lay(rng.standard_normal(spec.shape).astype(dtype), spec.layouts[k])

    params = tree_map(lambda spec: draw(spec, 0), tree)
    expected = tree_map(np.copy, params)
    states = [{} for _ in tree_leaves(tree)]
    opt = make(params, 0.01)
    for t in (1, 2, 3):
        grads = tree_map(lambda spec: draw(spec, 1), tree)
        kept = [g.copy() for g in tree_leaves(grads)]
        flat = zip(tree_leaves(expected), tree_leaves(grads), strict=True)
        after = [bits(p, g, t, state, 0.01) for (p, g), state in zip(flat, states, strict=True)]
        if t == 2:
            out = tree_map(lambda spec: draw(spec, 2), tree)
            opt.step(grads, out=out)
            assert_leaves(params, tree_leaves(expected))
            for p, o in zip(tree_leaves(params), tree_leaves(out), strict=True):
                p += o
        else:
            opt.step(grads)
        assert_leaves(params, after)
        assert_leaves(grads, kept)
        it = iter(after)
        expected = tree_map(lambda _, it=it: next(it), expected)
    assert opt.t == 3
    for key in set(opt.state) - {"t"}:
        moments = opt.state[key]
        assert_same_containers(tree_map(lambda a: None, moments), tree_map(lambda a: None, params))
        assert_leaves(moments, [state[key] for state in states])


@relaxed
@given(shapes, st.sampled_from(list(LAYOUTS)), st.integers(0, 99))
def test_nothing_beside_a_view_is_written(shape, layout, seed):
    """Where a parameter is a view, the elements of its base between its own stay as they are."""
    p = lay(np.random.default_rng(seed).standard_normal(shape), layout)
    base = p.base if isinstance(p.base, np.ndarray) and p.base.dtype == p.dtype else p
    mine = np.zeros(base.shape, bool)
    if base is not p:
        before = p.copy()
        p[...] = np.inf
        mine = np.isinf(base)
        p[...] = before
    untouched = base[~mine].copy()
    na.Adam(p, lr=0.1).step(np.ones(shape))
    if base is not p:
        assert np.array_equal(base[~mine], untouched)
    assert np.count_nonzero(mine) in (0, p.size)


# --- what is refused -----------------------------------------------------------------------------


#: where the bad array sits: (container of two leaves, name of the second)
SEATS = {
    "alone": (lambda a, b: b, ""),
    "last of a list": (lambda a, b: [a, b], "[1]"),
    "in a dict": (lambda a, b: {"w": a, "b": b}, "['b']"),
    "deep": (lambda a, b: ({"w": [a]}, [b]), "[1][0]"),
}

ROWS = [
    (case, place, seat)
    for case, row in BAD.items()
    for place in row[3]
    for seat in SEATS
    # None alone is what step() takes for "not given"
    if not (case == "None" and seat == "alone" and place in ("grads", "params", "out"))
    # these are right where they are alone, and refused beside float64
    if not (case in ("float16", "complex") and seat == "alone" and place == "make")
]


def good(seed):
    return np.random.default_rng(seed).standard_normal(4)


def use(opt, place, bad, grads):
    """Hand `bad` to the optimiser in this place."""
    if place == "grads":
        opt.step(bad)
    elif place == "state":
        opt.state = {**opt.state, "t": 9, "v": bad}
    else:
        opt.step(grads, **{place: bad})


@pytest.mark.parametrize(("case", "place", "seat"), [row for row in ROWS if row[1] == "make"])
def test_refused_when_made(case, place, seat):
    spoil, error, says, _ = BAD[case]
    build, suffix = SEATS[seat]
    with pytest.raises(error) as caught:
        na.Adam(build(good(1), spoil(good(2))))
    matches(str(caught.value), "params" + suffix, says)


@pytest.mark.parametrize(("case", "place", "seat"), [row for row in ROWS if row[1] != "make"])
def test_refused(case, place, seat):
    """Named, described, with advice; and nothing is written, also by the good arrays before."""
    spoil, error, says, _ = BAD[case]
    build, suffix = SEATS[seat]
    bad = build(good(1), spoil(good(2)))
    params, grads, out = (build(good(k), good(k + 1)) for k in (3, 5, 7))
    opt = na.Adam(params, amsgrad=True)
    opt.step(grads)
    before = snapshot(opt, params, grads, out)
    with pytest.raises(error) as caught:
        use(opt, place, bad, grads)
    name = "state['v']" if place == "state" else place
    matches(str(caught.value), name + suffix, says)
    assert_unchanged(before, snapshot(opt, params, grads, out))
    opt.step(grads)  # and it goes on


def test_lists_of_numbers_are_refused():
    for params in ([1.0, 2.0], (1, 2), {"x": 3.0}, [[1.0], [2.0]]):
        with pytest.raises(TypeError, match=r"^params\[.*the number .*numpy.array\("):
            na.Adam(params)
    with pytest.raises(TypeError, match=r"^grads: .*list.*numpy.asarray"):
        na.Adam(np.ones(3)).step([1.0, 1.0, 1.0])


def test_containers_without_arrays_are_refused():
    for params in ([], (), {}, [[], {}]):
        with pytest.raises(ValueError, match=r"^params: "):
            na.Adam(params)


def test_several_dtypes_in_one_optimiser_are_refused():
    params = {"w": np.ones(3), "x": np.ones(2), "b": np.ones(3, np.float32)}
    with pytest.raises(TypeError, match=r"^params\['b'\]: is float32.*second optimiser"):
        na.Adam(params)


def test_numpy_and_cupy_together_are_refused():
    array = np.ones(4)
    for params in ([np.ones(4), on_cupy(array)], [on_cupy(array), np.ones(4)]):
        with pytest.raises(TypeError, match=r"^params\[1\]: is a .*Py array.*one device"):
            na.Adam(params)
    with pytest.raises(TypeError, match=r"(?s)^params\[1\]: .*cupy"):
        na.Adam(params=[np.ones(4), np.ones(4)]).step(
            [np.ones(4), np.ones(4)], params=[np.ones(4), on_cupy(array)]
        )


STRUCTURES = [
    ([1, 1], [1], r"without grads\[1\]"),
    ([1, 1], [1, 1, 1], r"with grads\[2\] that params do not have"),
    ([1, 1], (1, 1), "containers"),
    ((1, 1), [1, 1], "containers"),
    ((1, 1), Pair(1, 1), "."),
    (Pair(1, 1), (1, 1), "."),
    ({"w": 1, "b": 1}, {"w": 1}, r"without grads\['b'\]"),
    ({"w": 1, "b": 1}, {"w": 1, "c": 1}, r"without grads\['b'\] and with grads\['c'\]"),
    ({"w": 1, "b": 1}, [1, 1], r"\['w'\]"),
    ([1, [1]], [1, 1], "."),
    ([1, 1], [1, [1]], "."),
    ({"a": {"b": 1}}, {"a": {"c": 1}}, r"\['a'\]\['b'\]"),
    ([1], 1, "."),
]


@pytest.mark.parametrize(("params", "grads", "says"), STRUCTURES)
@pytest.mark.parametrize("place", ["grads", "params", "out"])
def test_other_structures_are_refused(params, grads, says, place):
    params, grads = (tree_map(lambda _: np.ones(3), tree) for tree in (params, grads))
    fit = tree_map(np.copy, params)
    opt = na.Adam(params)
    before = snapshot(opt, params)
    with pytest.raises((ValueError, TypeError), match=says.replace("grads", place)) as caught:
        use(opt, place, grads, fit)
    assert str(caught.value).startswith(place)
    assert_unchanged(before, snapshot(opt, params))


def test_a_dict_may_come_in_another_order():
    params = {"w": np.zeros(2), "b": np.zeros(2)}
    na.SGD(params, lr=1.0).step({"b": np.full(2, 1.0), "w": np.full(2, 2.0)})
    assert params["w"].tolist() == [-2, -2]
    assert params["b"].tolist() == [-1, -1]


# --- overlap -------------------------------------------------------------------------------------


def overlapping():
    """(id, call that must be refused, names in the message, arrays that must not change)."""
    a, b = np.arange(8.0), np.arange(8.0)

    def case(name, opt, call, *names):
        return pytest.param(opt, call, names, (a, b), id=name)

    def one(p=None):
        return na.Adam(a[:4] if p is None else p)

    def two():
        return na.Adam([a[:4], b[:4]])

    return [
        case("p is g", one, lambda o: o.step(o.params), "grads", "params"),
        case("g inside p", one, lambda o: o.step(a[3:7]), "grads", "params"),
        case("g backwards over p", one, lambda o: o.step(a[3::-1]), "grads", "params"),
        case("g interleaved and touching", one, lambda o: o.step(a[1::2]), "grads", "params"),
        case(
            "second g is first p",
            two,
            lambda o: o.step([np.ones(4), a[:4]]),
            r"grads\[1\]",
            r"params\[0\]",
        ),
        case("out is p", one, lambda o: o.step(np.ones(4), out=o.params), "out", "params"),
        case("out is g", one, lambda o: o.step(b[:4], out=b[:4]), "out", "grads"),
        case("out overlaps g", one, lambda o: o.step(b[:4], out=b[2:6]), "out", "grads"),
        case(
            "out twice",
            two,
            lambda o: o.step([np.ones(4)] * 2, out=[b[4:], b[4:]]),
            r"out\[0\]",
            r"out\[1\]",
        ),
        case("params= is g", one, lambda o: o.step(b[:4], params=b[:4]), "params", "grads"),
        case(
            "params= twice",
            two,
            lambda o: o.step([np.ones(4)] * 2, params=[b[4:], b[4:]]),
            r"params\[0\]",
            r"params\[1\]",
        ),
        case("g is m", one, lambda o: o.step(o.state["m"]), "grads", r"state\['m'\]"),
        case("g is v backwards", one, lambda o: o.step(o.state["v"][::-1]), "grads", "state"),
        case(
            "out is v", one, lambda o: o.step(np.ones(4), out=o.state["v"]), "out", r"state\['v'\]"
        ),
        case(
            "params= is m",
            one,
            lambda o: o.step(np.ones(4), params=o.state["m"]),
            "params",
            r"state\['m'\]",
        ),
    ]


@pytest.mark.parametrize(("make", "call", "names", "arrays"), overlapping())
def test_overlap_is_refused(make, call, names, arrays):
    opt = make()
    before = snapshot(opt, list(arrays))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shares memory.*copy") as caught:
            call(opt)
        for name in names:
            assert re.search(name, str(caught.value)), str(caught.value)
        assert_unchanged(before, snapshot(opt, list(arrays)))


def test_one_array_twice_is_refused_when_made():
    a = np.ones(8)
    for params in ([a, a], {"w": a, "b": a[2:4]}, [a[:5], a[4:]], [a[::2], a[2:3]], [a, a[::-1]]):
        with pytest.raises(ValueError, match=r"params\[.* shares memory with params\[.*copy"):
            na.Adam(params)
    assert np.array_equal(a, np.ones(8))


def test_interleaved_arrays_that_share_no_element_are_right():
    rng = np.random.default_rng(0)
    z, gz = (rng.standard_normal(6) + 1j * rng.standard_normal(6) for _ in range(2))
    a, ga, out = rng.standard_normal((3, 12))
    square = rng.standard_normal((4, 4))
    for params, grads in [
        ([z.real, z.imag], [gz.real, gz.imag]),
        ([a[::2], a[1::2]], [ga[1::2], ga[::2]]),
        ([square[:, 1], square[:, 3], square[::2, 2]], [ga[:4], ga[4:8], ga[8:10]]),
    ]:
        expected = [p.copy() for p in params]
        opt, other = na.Adam(params, lr=0.1), na.Adam(expected, lr=0.1)
        for _ in range(3):
            opt.step(grads)
            other.step([g.copy() for g in grads])
        assert_leaves(params, expected)
    # gradient, parameter and direction in the gaps of one another
    mixed = rng.standard_normal(12)
    copies = [mixed[k::3].copy() for k in range(3)]
    na.Adam(mixed[0::3]).step(mixed[1::3], out=mixed[2::3])
    na.Adam(copies[0]).step(copies[1], out=copies[2])
    for k in range(3):
        assert_same_bits(mixed[k::3], copies[k])
    assert out.size == 12


def test_empty_arrays_share_nothing():
    a = np.ones(4)
    opt = na.Adam([a, a[:0], a[2:2]])
    opt.step([np.ones(4), a[:0], a[4:]])
    assert opt.t == 1
    empty = np.ones((3, 0))
    na.Adam(empty).step(empty)


# --- what is right -------------------------------------------------------------------------------


def test_broadcast_gradients_are_right():
    for g in (np.broadcast_to(2.0, (3, 4)), np.broadcast_to(np.arange(4.0), (3, 4))):
        p, q = np.zeros((3, 4)), np.zeros((3, 4))
        na.SGD(p, lr=1.0).step(g)
        na.SGD(q, lr=1.0).step(g.copy())
        assert_same_bits(p, q)
        assert np.array_equal(p, -g)


def test_sliding_and_readonly_gradients_are_right():
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(6.0), 3)
    p = np.zeros((4, 3))
    na.SGD(p, lr=1.0).step(windows)
    assert np.array_equal(p, -windows)


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_a_number_is_the_gradient_of_a_zero_d_parameter(dtype):
    """NumPy's arithmetic turns 0-d arrays into numbers."""
    alone, nested, plain = np.array(1, dtype), {"a": np.array(1, dtype)}, np.ones(1, dtype)
    optimizers = [na.Adam(x, lr=0.1) for x in (alone, nested, plain)]
    for _ in range(5):
        optimizers[0].step(2 * (alone - 3))
        optimizers[1].step({"a": float(2 * (nested["a"] - 3))})
        optimizers[2].step(2 * (plain - 3))
    assert alone == nested["a"] == plain[0] != 1


def test_a_number_of_another_dtype_is_refused_as_an_array_is():
    x = np.array(1.0, np.float32)
    opt = na.Adam(x)
    with pytest.raises(TypeError, match=r"^grads: expected float32 like params, got float64"):
        opt.step(np.float64(2.0))
    with pytest.raises(TypeError, match=r"^grads: expected a NumPy array, got the number True"):
        opt.step(True)
    assert (x, opt.t) == (1, 0)


def test_zero_d_and_one_element():
    for shape in ((), (1,), (1, 1, 1)):
        p = np.full(shape, 3.0)
        opt = na.Adam(p, lr=0.5)
        opt.step(np.ones(shape))
        assert opt.state["m"].shape == shape
        assert p.item() == pytest.approx(2.5)


def test_more_axes_than_usual():
    p = np.ones([2, 1] * 8).transpose(*range(15, -1, -1))
    opt = na.SGD(p[::-1], lr=1.0)
    opt.step(np.ones(p.shape))
    assert not p.any()


class Tagged(np.ndarray):
    """A subclass that must not be asked to compute."""

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("a step called a ufunc of a subclass")


def test_subclasses_are_their_memory():
    p, g, out = (np.ones(5).view(Tagged) for _ in range(3))
    opt = na.Adam([p, np.ones(5)], lr=0.5)
    opt.step([g, g])
    opt.step([np.ones(5), np.ones(5)], out=[out, np.ones(5)])
    opt.step([g, g], params=[out, p])
    assert opt.t == 3
    assert p.view(np.ndarray)[0] != 1.0
    assert opt.params[0] is p


def test_memmap(tmp_path):
    p = np.memmap(tmp_path / "p", np.float64, "w+", shape=(3, 4))
    p[...] = 1.0
    opt = na.Adam(p, lr=0.1)
    opt.step(np.ones((3, 4)))
    p.flush()
    saved = np.fromfile(tmp_path / "p")
    assert np.allclose(saved, 0.9)
    view = np.memmap(tmp_path / "p", np.float64, "r", shape=(3, 4))
    with pytest.raises(ValueError, match=r"^params: is read-only"):
        na.Adam(view)
    na.Adam(np.ones((3, 4))).step(view)  # as a gradient it is read only


def test_params_are_kept_alive():
    opt = na.Adam([np.ones(1000) for _ in range(3)], lr=0.1)
    gc.collect()
    for _ in range(20):
        opt.step([np.ones(1000) for _ in range(3)])
    assert all(np.allclose(p, -1.0) for p in opt.params)


# --- arrays changed behind the optimiser's back --------------------------------------------------


def stepped():
    p = np.linspace(1, 2, 6).copy()
    opt = na.Adam(p, lr=0.1)
    g = np.ones(6)
    opt.step(g)
    return p, g, opt


def change(a, **attributes):
    """Set attributes that newer NumPy versions deprecate: old codes set them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, value in attributes.items():
            setattr(a, name, value)


def test_setflags_behind_the_back():
    p, g, opt = stepped()
    p.setflags(write=False)
    before = snapshot(opt, p)
    with pytest.raises(ValueError, match=r"^params: is read-only"):
        opt.step(g)
    assert_unchanged(before, snapshot(opt, p))
    p.setflags(write=True)
    opt.step(g)
    assert opt.t == 2


@pytest.mark.parametrize("which", ["p", "g"])
@pytest.mark.parametrize("shape", [(3, 2), (6, 1)])
def test_shape_behind_the_back(which, shape):
    p, g, opt = stepped()
    change(p if which == "p" else g, shape=shape)
    before = snapshot(opt, p)
    name = "params" if which == "p" else "grads"
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(6,\)"):
        opt.step(g)
    assert_unchanged(before, snapshot(opt, p))
    change(p if which == "p" else g, shape=(6,))
    opt.step(g)


@pytest.mark.parametrize("which", ["p", "g"])
@pytest.mark.parametrize("dtype", [np.int64, ">f8", "m8[s]"])
def test_dtype_behind_the_back(which, dtype):
    p, g, opt = stepped()
    changed = p if which == "p" else g
    change(changed, dtype=np.dtype(dtype))
    before = snapshot(opt, p)
    name = "params" if which == "p" else "grads"
    with pytest.raises(TypeError, match=f"^{name}: expected float64"):
        opt.step(g)
    assert_unchanged(before, snapshot(opt, p))
    change(changed, dtype=np.dtype(float))
    opt.step(g)


@pytest.mark.parametrize("which", ["p", "g"])
def test_resize_behind_the_back(which):
    p, g, opt = stepped()
    changed = p if which == "p" else g
    name = "params" if which == "p" else "grads"
    for size in (3, 60_000, 0):
        changed.resize(size, refcheck=False)
        before = snapshot(opt, p)
        with pytest.raises(ValueError, match=rf"^{name}: expected shape \(6,\) .*\({size},\)"):
            opt.step(g)
        assert_unchanged(before, snapshot(opt, p))
    changed.resize(6, refcheck=False)  # the old shape on other memory: it is stepped there
    changed[...] = 1.0
    start, m = p.copy(), opt.state["m"].copy()
    opt.step(g)
    assert np.all(p < start)
    assert not np.array_equal(opt.state["m"], m)


def test_strides_behind_the_back():
    room = np.arange(12.0)
    p = room[:6]
    opt = na.SGD(p, lr=1.0)
    g = np.ones(6)
    opt.step(g)
    change(p, strides=(16,))
    opt.step(g)
    assert room[10] == 9.0  # 10, the sixth of every second, less 1
    assert room[11] == 11.0
    assert room[0] == -2.0


def test_gradient_entry_swapped_in_the_same_list():
    """The same list object with another array in it: nothing of the last step is trusted."""
    params = [np.zeros(3), np.zeros(3)]
    opt = na.SGD(params, lr=1.0)
    grads = [np.ones(3), np.ones(3)]
    opt.step(grads)
    opt.step(grads)
    grads[1] = np.full(3, 5.0)
    opt.step(grads)
    assert params[0].tolist() == [-3] * 3
    assert params[1].tolist() == [-7] * 3
    grads[0] = np.ones(4)
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected shape"):
        opt.step(grads)
    grads[0] = np.ones(3)
    grads[1].setflags(write=False)
    opt.step(grads)
    change(grads[1], dtype=np.dtype(np.int64))
    with pytest.raises(TypeError, match=r"^grads\[1\]: expected float64"):
        opt.step(grads)
    assert params[0].tolist() == [-4] * 3
    assert opt.t == 4


def test_gradient_that_comes_to_overlap():
    """The same objects, laid over the parameters between two steps."""
    room = np.zeros(12)
    p, g = room[:6], np.ones(6)
    opt = na.SGD(p, lr=1.0)
    opt.step(g)
    over = room[3:9]
    for _ in range(2):
        with pytest.raises(ValueError, match="grads shares memory with params"):
            opt.step(over)
    opt.step(g)
    assert p.tolist() == [-2] * 6

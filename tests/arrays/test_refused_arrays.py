"""Arrays, numbers and structures that are refused: named, described, and nothing is written.

Arrays that share memory are refused; those that only interleave are right.
"""

from __future__ import annotations

import itertools
import re
import types
from collections import OrderedDict

import numpy as np
import pytest
import scipy.sparse
from numpy.exceptions import TooHardError

import numadam as na
from numadam._arrays import checks
from tests.bits import assert_same_bits
from tests.trees import (
    BAD,
    Pair,
    assert_leaves,
    assert_unchanged,
    cases,
    matches,
    snapshot,
    tree_map,
)

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
    if not (case == "complex" and seat == "alone" and place == "make")
]


def good(seed):
    return np.random.default_rng(seed).standard_normal(4)


def use(opt, place, bad, grads):
    """Hand `bad` to the optimiser in this place."""
    if place == "make":
        na.Adam(bad)
    elif place == "grads":
        opt.step(bad)
    elif place == "state":
        opt.state = {**opt.state, "t": 9, "v": bad}
    else:
        opt.step(grads, **{place: bad})


@pytest.mark.parametrize(("case", "place", "seat"), cases(ROWS))
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
    name = {"state": "state['v']", "make": "params"}.get(place, place)
    matches(str(caught.value), name + suffix, says)
    assert_unchanged(before, snapshot(opt, params, grads, out))
    opt.step(grads)  # and it goes on


class Subclass(np.ndarray):
    """As of units or labels: its memory is NumPy's."""


def test_a_subclass_of_another_dtype_is_refused_for_the_dtype():
    other, opt = np.ones(3, np.float32).view(Subclass), na.Adam([np.ones(3)])
    for call in (
        lambda: opt.step([other]),
        lambda: opt.step([np.ones(3)], out=[other]),
        lambda: opt.step([np.ones(3)], params=[other]),
        lambda: na.adam_update(np.ones(3), other, np.zeros(3), np.zeros(3), 1),
    ):
        with pytest.raises(TypeError, match=r"expected float64 like .*, got float32. Use"):
            call()
    assert opt.t == 0


def test_containers_without_arrays_are_refused():
    for params in ([], (), {}, [[], {}]):
        with pytest.raises(ValueError, match=r"^params: "):
            na.Adam(params)


def test_several_dtypes_in_one_optimiser_are_refused():
    params = {"w": np.ones(3), "x": np.ones(2), "b": np.ones(3, np.float32)}
    with pytest.raises(TypeError, match=r"^params\['b'\]: is float32.*second optimiser"):
        na.Adam(params)


STRUCTURES = [
    ([1, 1], [1], r"without grads\[1\]"),
    ([1, 1], [1, 1, 1], r"with grads\[2\] that params do not have"),
    ([1, 1], (1, 1), "grads: expected a list, got a tuple. Nest it as params are."),
    ((1, 1), Pair(1, 1), "grads: expected a tuple, got a Pair."),
    ({"enc": [1], "b": 1}, {"enc": (1,), "b": 1}, r"^grads\['enc'\]: expected a list, got a tuple"),
    ({"enc": [1], "b": 1}, {"enc": 1, "b": 1}, r"^grads\['enc'\]: expected a list, got an array"),
    ([(1, [])], [(1, {})], r"^grads\[0\]\[1\]: expected a list, got a dict."),
    ([Pair(1, [1])], [Pair(1, (1,))], r"^grads\[0\].second: expected a list, got a tuple."),
    (OrderedDict(a=1, b=1), OrderedDict(b=1, a=1), "containers as params, in the same order"),
    ({"w": 1, "b": 1}, {"w": 1}, r"without grads\['b'\]"),
    ({"w": 1, "b": 1}, [1, 1], "grads: expected a dict, got a list."),
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


def test_elements_on_one_memory_are_refused_before_memory_is_taken(monkeypatch):
    """Its state would be 128 GiB; and a state that does not fit is told in a sentence."""
    huge = np.lib.stride_tricks.as_strided(np.ones(1), (2**33,), (0,))
    windows = np.lib.stride_tricks.as_strided(np.ones(4), (2**16, 2**17), (8, 0))

    def refuse(*args, **options):
        raise MemoryError("Unable to allocate 32. GB")

    monkeypatch.setattr("numadam._cpu.state.aligned_zeros", refuse)
    for params, name in [(huge, "params"), ([np.ones(2), windows], r"params\[1\]")]:
        with pytest.raises(ValueError, match=rf"^{name}: several of its elements .* Pass a copy"):
            na.Adam(params)
    says = (
        "params: Adam with these options needs 128 B for its state, and there is not so much "
        "memory. na.SGD(params) needs none. (Unable to allocate 32. GB)"
    )
    with pytest.raises(MemoryError, match=f"^{re.escape(says)}$"):
        na.Adam([np.ones(6), np.ones(2)])


@pytest.mark.parametrize(
    ("number", "kind"),
    [(2, "float"), (2.5, "float"), (1j, "complex"), (np.complex64(1j), "complex")],
)
def test_a_number_is_told_the_array_that_it_would_be(number, kind):
    says = (
        rf"^params: .*, dtype={kind}\), and read it back with {kind}\(\.\.\.\).*x, dtype={kind}\)"
    )
    with pytest.raises(TypeError, match=says):
        na.Adam(number)


class Key(str):
    """Changes a container when optree sorts the keys of another, as a second thread may."""

    __slots__ = ("run",)
    __hash__ = str.__hash__

    def __lt__(self, other):
        self.run()
        return str.__lt__(self, other)


@pytest.mark.parametrize("error", [IndexError, KeyError, RuntimeError])
@pytest.mark.parametrize("place", ["grads", "params", "out"])
def test_containers_that_change_while_they_are_read_are_refused(place, error):
    def made():
        return [{Key("a"): np.ones(3), Key("b"): np.ones(3)}, np.ones(3), np.ones(3)]

    def change():
        if error is not IndexError:
            raise error
        tree.pop()

    params, tree, fit = made(), made(), made()
    for one in (params, tree, fit):
        for key in one[0]:
            key.run = list
    opt = na.Adam(params)
    before = snapshot(opt, params)
    for key in tree[0]:
        key.run = change
    with pytest.raises(ValueError, match=rf"^{place}: its containers changed while") as caught:
        use(opt, place, tree, fit)
    assert isinstance(caught.value.__cause__, error)
    assert_unchanged(before, snapshot(opt, params))


def test_a_dict_may_come_in_another_order():
    params = {"w": np.zeros(2), "b": np.zeros(2)}
    na.SGD(params, lr=1.0).step({"b": np.full(2, 1.0), "w": np.full(2, 2.0)})
    assert params["w"].tolist() == [-2, -2]
    assert params["b"].tolist() == [-1, -1]


def test_networks_and_groups_of_torch_are_led_to_ours():
    class Network:
        def named_parameters(self):
            return []

    with pytest.raises(
        TypeError, match=r"params: .*p\.detach\(\)\.numpy\(\) for name, p in x\.named_parameters"
    ):
        na.Adam(Network())
    with pytest.raises(TypeError, match=r"Groups of torch are written otherwise.*groups="):
        na.AdamW([{"params": [np.ones(2)], "weight_decay": 0.1}])


def test_only_gradients_are_advised_to_be_broadcast():
    x = np.ones((3, 3))
    with pytest.raises(ValueError, match=r"^g: .*broadcast_to"):
        na.adam_update(x[0], np.ones(2), x[1], x[2], 1)
    with pytest.raises(ValueError, match=r"^m: .*made for p\.$"):
        na.adam_update(x[0], np.ones(3), np.ones(2), x[2], 1)


@pytest.mark.peers("torch")
def test_a_tensor_on_the_cpu_is_told_how_to_reach_the_gpu():
    import torch

    from numadam._arrays.checks import describe

    assert describe(torch.ones(3), "CuPy").endswith("Use x.cuda().")


# --- containers ----------------------------------------------------------------------------------


def test_nothing_in_the_place_of_a_container_is_called_so():
    opt = na.SGD({"w": [np.zeros(2)]})
    with pytest.raises(ValueError, match=r"^grads\['w'\]: expected a list, got None"):
        opt.step({"w": None})


def test_an_object_that_holds_an_array_is_not_called_convertible():
    """`numpy.asarray` of it would be an array of one object."""
    holder = types.SimpleNamespace(shape=(3,), dtype=np.dtype(float))
    with pytest.raises(TypeError, match=r"got types.SimpleNamespace. Pass the array that it holds"):
        na.Adam(holder)
    with pytest.raises(TypeError, match=r"got scipy.sparse.*csr_matrix. Use x.toarray\(\)"):
        na.Adam(scipy.sparse.csr_matrix(np.eye(3)))


# --- overlap -------------------------------------------------------------------------------------


ONE, TWO = 1, 2
#: how many arrays are stepped, a call that must be refused, names in the message
OVERLAPS = {
    "p is g": (ONE, lambda opt, a, b: opt.step(opt.params), ["grads", "params"]),
    "g inside p": (ONE, lambda opt, a, b: opt.step(a[3:7]), ["grads", "params"]),
    "g backwards over p": (ONE, lambda opt, a, b: opt.step(a[3::-1]), ["grads", "params"]),
    "second g is first p": (
        TWO, lambda opt, a, b: opt.step([np.ones(4), a[:4]]), ["grads[1]", "params[0]"]),
    "out is p": (ONE, lambda opt, a, b: opt.step(np.ones(4), out=opt.params), ["out", "params"]),
    "out is g": (ONE, lambda opt, a, b: opt.step(b[:4], out=b[:4]), ["out", "grads"]),
    "out twice": (
        TWO, lambda opt, a, b: opt.step([np.ones(4)] * 2, out=[b[4:]] * 2), ["out[0]", "out[1]"]),
    "params= is g": (ONE, lambda opt, a, b: opt.step(b[:4], params=b[:4]), ["params", "grads"]),
    "g is m": (ONE, lambda opt, a, b: opt.step(opt.state["m"]), ["grads", "state['m']"]),
    "g backwards over v": (
        ONE, lambda opt, a, b: opt.step(opt.state["v"][::-1]), ["grads", "state['v']"]),
    "out is v": (
        ONE, lambda opt, a, b: opt.step(np.ones(4), out=opt.state["v"]), ["out", "state['v']"]),
    "params= is m": (
        ONE, lambda opt, a, b: opt.step(np.ones(4), params=opt.state["m"]),
        ["params", "state['m']"]),
}  # fmt: skip


@pytest.mark.parametrize("case", OVERLAPS)
def test_overlap_is_refused(case):
    stepped, call, names = OVERLAPS[case]
    a, b = arrays = np.arange(8.0), np.arange(8.0)
    opt = na.Adam([a[:4], b[:4]] if stepped is TWO else a[:4])
    before = snapshot(opt, list(arrays))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"shares memory.*copy") as caught:
            call(opt, a, b)
        assert all(name in str(caught.value) for name in names), str(caught.value)
        assert_unchanged(before, snapshot(opt, list(arrays)))


def test_the_gradient_of_half_x_squared_is_a_copy_of_x():
    """f = x^2 / 2 has the gradient x: the message says how to step with it."""
    x = np.array([3.0, -2.0])
    nested = {"w": x, "b": np.ones(2)}
    opt = na.SGD(x, lr=0.5)
    for step, name in [
        (lambda: opt.step(x), "grads"),
        (lambda: opt.step(x[:]), "grads"),
        (lambda: na.SGD(nested).step({"w": x, "b": np.ones(2)}), r"grads\['w'\]"),
    ]:
        with pytest.raises(ValueError, match=rf"^{name} shares memory.*opt\.step\(x\.copy\(\)\)"):
            step()
    with pytest.raises(ValueError, match=r"^g shares memory with p.* p\.copy\(\)"):
        na.sgd_update(x, x, lr=0.5)
    assert opt.t == 0
    opt.step(x.copy())
    assert np.array_equal(x, [1.5, -1.0])


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


def places(strides):
    """Of the elements of an array of shape (2, 2, ...), from its first."""
    return {sum(some) for some in itertools.product(*((0, stride) for stride in strides))}


@pytest.mark.parametrize(("begin", "shared"), [(6800, 1), (6801, 0)])
def test_strides_that_numpy_searches_long_are_decided(begin, shared, monkeypatch):
    """Its search may take seconds, which Ctrl-C does not end: the elements are compared then."""
    of_p = (828, 1822, 4009, 8819, 19403, 42689, 93914, 206611, 454545, 999999)
    of_g = (22692, 297871, 378526, 496706, 77254, 87739, 647210, 107883, 65602, 395317)
    assert len(places(of_p) & {begin + at for at in places(of_g)}) == shared
    memory, view = np.zeros(2_600_000), np.lib.stride_tricks.as_strided
    p = view(memory, (2,) * 10, [8 * stride for stride in of_p])
    g = view(memory[begin:], (2,) * 10, [8 * stride for stride in of_g])
    for one, other in [(p, g), (g, p)]:
        with pytest.raises(TooHardError):
            np.shares_memory(one, other, max_work=checks.MOST_WORK)
        found = checks.shared_memory([("p", one)], [("g", other)])
        assert found.startswith("g shares memory with p: ") == bool(shared)
    reverse = checks.shared_memory([("p", p[::-1])], [("g", g[::-1, ::-1])])
    assert bool(reverse) == bool(shared)
    opt = na.SGD(p)
    if shared:
        with pytest.raises(ValueError, match=r"^grads shares memory with params"):
            opt.step(g)
    else:
        opt.step(g)
    monkeypatch.setattr(checks, "MOST_ELEMENTS", 1023)
    with pytest.raises(ValueError, match=r"^grads may share memory with params: .* Pass a copy"):
        opt.step(g)
    assert opt.t == 1 - shared


def test_empty_arrays_share_nothing():
    a = np.ones(4)
    opt = na.Adam([a, a[:0], a[2:2]])
    opt.step([np.ones(4), a[:0], a[4:]])
    assert opt.t == 1
    empty = np.ones((3, 0))
    na.Adam(empty).step(empty)

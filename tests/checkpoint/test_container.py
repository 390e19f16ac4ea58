"""What is written is what is read, by numadam and by `numpy.load`; all else is refused.

Nested arrays, options, step sizes and schedules as JSON and back.

Contents of checkpoints: arrays of every dtype and layout.
"""

from __future__ import annotations

import io
import json
import math
import tracemalloc
import zipfile
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds

import numadam as na
from numadam import schedules
from numadam._arrays.tree import Tree
from numadam._checkpoint.container import Container, name_fault, read, write
from numadam._checkpoint.tree import (
    Structure,
    equal,
    options_from_json,
    options_to_json,
    rebuild,
    values_in,
)
from tests.trees import relaxed

_RNG = np.random.default_rng(5)
_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = [*map(np.dtype, ("f8", "f4", "f2", "c16", "c8", "bool", *_INTEGERS))]


def some(dtype, *shape):
    """An array of random bits, with NaNs and infinities among them; bools of 0 and 1."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    high = 2 if dtype.kind == "b" else 256
    return np.frombuffer(_RNG.integers(0, high, size, np.uint8).tobytes(), dtype).reshape(shape)


def layouts(dtype):
    """Arrays of a dtype in every layout, by name."""
    a = some(dtype, 6, 8)
    return {
        "file": a,  # a name that is an argument of numpy.savez
        "f": np.asfortranarray(a),
        "strided": a[::2, 1::3],
        "reversed": a[::-1, ::-1],
        "transposed": some(dtype, 2, 3, 4).transpose(1, 2, 0),
        "unaligned": np.frombuffer(b"x" + a.tobytes(), dtype, offset=1).reshape(a.shape),
        "repeated": np.broadcast_to(some(dtype, 3, 1), (3, 4)),
        "p/a~1b/ä": some(dtype, 1).reshape(()),
        "empty": some(dtype, 0, 3),
        "matrix": a.view(np.matrix),
    }


def content():
    """Content whose file is small, with every kind of entry."""
    arrays = {
        "p/w": np.arange(6, dtype="f4").reshape(3, 2),
        "m/ä": np.array([1 + 2j, 3]),
        "t": np.array(7),
        "flag": np.array([True, False]),
        "none": np.zeros((0, 4)),
    }
    return Container("optimizer", {"lr": 1e-3, "beta": [0.9, math.inf]}, arrays)


def same(a, b):
    """Whether two dicts have the same arrays to the bit, in the same order."""
    return [(k, x.dtype, x.shape, x.tobytes()) for k, x in a.items()] == [
        (k, x.dtype, x.shape, x.tobytes()) for k, x in b.items()
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout_comes_back_here_and_in_numpy(tmp_path, dtype):
    arrays = layouts(dtype)
    write(tmp_path / "a", Container("optimizer", {}, arrays))
    found = read(tmp_path / "a", "optimizer").arrays
    assert same(found, arrays)
    for array in found.values():
        flags = array.flags
        assert type(array) is np.ndarray
        assert all((flags.c_contiguous, flags.writeable, flags.aligned))
    with np.load(tmp_path / "a") as file:
        assert file.files == ["numadam.json", *arrays]
        assert same({name: file[name] for name in arrays}, arrays)


META = {
    "none": None,
    "numbers": [0, -1, 10**40, 0.1, 5e-324, -0.0, 1.7976931348623157e308, math.inf, -math.inf],
    "bools": [True, False],
    "texts": {"": 'ä \U0001f600 \x00 \ud800 \\ "', "a/b": []},
    "nested": [[[{}]]],
}


def test_meta_comes_back_exactly(tmp_path):
    write(tmp_path / "a", Container("minimize", META, {}))
    found = read(tmp_path / "a", "minimize")
    assert repr(found.meta) == repr(META)
    assert found.arrays == {}
    write(tmp_path / "a", Container("minimize", {"x": math.nan}, {}))
    assert math.isnan(read(tmp_path / "a", "minimize").meta["x"])


@pytest.mark.parametrize(
    ("meta", "arrays", "error", "text"),
    [
        ({"a": len}, {}, TypeError, "not JSON serializable"),
        ({"a": "x" * (1 << 22)}, {}, ValueError, "meta: 4,194,363 bytes are too many; long lists"),
        ({}, {"a": np.array([None])}, TypeError, r"arrays\['a'\]: expected a NumPy array of num"),
        ({}, {"a": np.array(["x"])}, TypeError, r"arrays\['a'\]: expected a NumPy array of num"),
        ({}, {"a\n": np.ones(1)}, ValueError, "has a control character"),
        ({}, {"a\udc80": np.ones(1)}, ValueError, "has a control character"),
        ({}, {"a/../b": np.ones(1)}, ValueError, "has the part '..'"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, meta, arrays, error, text):
    with pytest.raises(error, match=text):
        write(tmp_path / "a", Container("optimizer", meta, {"first": np.ones(2), **arrays}))
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_the_other_byte_order_come_back_as_numbers_of_this_machine(tmp_path):
    array = np.arange(5.0, dtype=np.dtype("f4").newbyteorder())
    write(tmp_path / "a", Container("optimizer", {}, {"a": array}))
    found = read(tmp_path / "a", "optimizer").arrays["a"]
    assert found.dtype.isnative
    assert found.tolist() == array.tolist()


# --- damage --------------------------------------------------------------------------------------


def test_every_changed_byte_and_every_truncation_is_refused_or_harmless(tmp_path):
    path, harmless = tmp_path / "a", 0
    write(path, content())
    whole = path.read_bytes()
    for at, byte in enumerate(whole):
        path.write_bytes(whole[:at] + bytes([byte ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            found = read(path, "optimizer")
        except na.CheckpointError:
            continue
        harmless += 1  # a date, say
        assert found.meta == content().meta
        assert same(found.arrays, content().arrays)
    assert 0 < harmless < len(whole) / 3
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(na.CheckpointError):
            read(path, "optimizer")


def member(text, data=b""):
    """An array with this text as its header."""
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + data


def header(shape, dtype="<f8"):
    return member(f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n")


def forged(path, members, compression=zipfile.ZIP_STORED, **head):
    """A file of these members whose checksums are right."""
    head = {"version": 2, "kind": "optimizer", "meta": {}, "arrays": len(members), **head}
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("numadam.json", json.dumps(head))
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)


HEADERS = {
    "more than there is": header((10**15,)),
    "a shape that overflows": header((2**32, 2**32)),
    "a negative shape": header((-1, 0)),
    "a giant beside no element": header((0, 10**30)),
    "objects": header((0,), "|O"),
    "records": member("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (0,), }\n"),
    "no header": b"",
    "no array": b"something else",
    "a header without end": member("(" * 900),
    "more bytes": header((1,)) + bytes(16),
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers_are_refused(tmp_path, name):
    forged(tmp_path / "a", {"w": HEADERS[name]})
    refused(tmp_path / "a")


def refused(path, text=""):
    """A file is refused by a message that names it, and takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(na.CheckpointError, match=f"^{path}: .*{text}"):
            read(path, "optimizer")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_hostile_archives_are_refused(tmp_path):
    path, one = tmp_path / "a.npz", {"w": header((1,)) + bytes(8)}
    forged(path, one)
    assert read(path, "optimizer").arrays["w"].tolist() == [0.0]  # as a real one
    forged(path, {"w": header((10**6,)) + bytes(8 * 10**6)}, zipfile.ZIP_DEFLATED)
    refused(path, "says that it has more than its")
    forged(path, {"w": np.random.default_rng(0).bytes(999)}, zipfile.ZIP_DEFLATED)
    refused(path, "is compressed or damaged")
    forged(path, one, meta="x" * (1 << 23))
    refused(path, "8,388,668 bytes of numadam.json are too many")
    for head in ({"version": 3}, {"arrays": 2}, {"meta": []}, {"kind": []}, {"version": "3"}):
        forged(path, one, **head)
        refused(path, "version 3 of the format.*upgrade" if head == {"version": 3} else "")
    np.savez(path, w=np.ones(2))
    refused(path, "not a checkpoint of numadam: has no numadam.json")
    path.write_bytes(b"\x90\1\0\0\0\0\0\0" + b'{"__metadata__":{"format":"numadam","version":"1"')
    refused(path, "was saved by an earlier numadam, as safetensors: load it with that")


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """A file whose directory names the same 8 MB a thousand times."""
    data, out = header((10**6,)) + bytes(8 * 10**6), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("w.npy", data)
        info = archive.infolist()[0]
        archive.filelist.extend([info] * 1000)
    (tmp_path / "a").write_bytes(out.getvalue())
    refused(tmp_path / "a")


def test_a_nested_meta_is_refused_or_takes_a_few_times_its_length(tmp_path):
    for text in ("[" * 100_000 + "]" * 100_000, f"[{'[],' * 100_000}[]]"):
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            archive.writestr("numadam.json", f'{{"version":2,"kind":"optimizer","meta":{text}}}')
        tracemalloc.start()
        try:
            with pytest.raises(na.CheckpointError):
                read(tmp_path / "a", "optimizer")
            assert tracemalloc.get_traced_memory()[1] < 45 * len(text)
        finally:
            tracemalloc.stop()


def test_a_file_takes_the_memory_of_its_arrays(tmp_path):
    large = Container("optimizer", {}, {"a": np.ones((4000, 2000))})
    tracemalloc.start()
    try:
        write(tmp_path / "a", large)
        assert tracemalloc.get_traced_memory()[1] < 0.6 * large.arrays["a"].nbytes
        tracemalloc.reset_peak()
        assert read(tmp_path / "a", "optimizer").arrays["a"].all()
        assert tracemalloc.get_traced_memory()[1] < 1.1 * large.arrays["a"].nbytes
    finally:
        tracemalloc.stop()


# --- structure -----------------------------------------------------------------------------------


def test_an_empty_path_is_refused():
    """It would be the current folder: a variable that is not set, say."""
    opt = na.Adam(np.ones(2))
    for load in (na.load, opt.load):
        with pytest.raises(ValueError, match=r"^path: is empty"):
            load("")


Pair = namedtuple("Pair", "weight bias")
#: keys that a file takes: no control character, no surrogate, not ".."
TREE_KEYS = st.text(
    st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from("/~01."), max_size=4
).filter(lambda key: key != "..") | st.integers(-20, 20)
LEAVES = st.just(None) | st.integers() | st.text(max_size=2) | st.builds(np.ones, st.integers(0, 3))


def entries(inner):
    # 0 and "0" would have one name: refused, and tested below
    return st.lists(st.tuples(TREE_KEYS, inner), max_size=4, unique_by=lambda pair: str(pair[0]))


TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | entries(inner).map(dict)
        | entries(inner).map(OrderedDict)
    ),
    max_leaves=12,
)


def same_tree(a, b):
    if isinstance(a, np.ndarray):
        return a is b
    if isinstance(a, dict):
        same_keys = [(k, type(k)) for k in a] == [(k, type(k)) for k in b]
        return type(a) is type(b) and same_keys and all(same_tree(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same_tree, a, b))
    return type(a) is type(b) and a == b


@relaxed
@given(TREES)
def test_names_are_unique_and_lead_back(tree):
    found = Structure(tree)
    names = list(found.leaves)
    assert all(name_fault(name) == "" for name in names)
    assert len({*names}) == len(names) == len(found.names)
    saved = json.loads(json.dumps(found.json))
    asked = []

    def take(name, axes):
        asked.append(name)
        assert axes == [0]
        return found.leaves[name]

    assert same_tree(rebuild(saved, take), tree)
    assert asked == names
    assert [value for _, value in values_in(saved)] == leaves_without_arrays(tree)
    whole = Tree(tree)  # in whose order an optimiser counts the leaves
    for path, leaf in zip(whole.paths(), whole.flatten(tree, "params"), strict=True):
        if isinstance(leaf, np.ndarray):
            assert found.leaves[found.names[tuple(path)]] is leaf


def leaves_without_arrays(tree):
    if isinstance(tree, (dict, list, tuple)):
        children = tree.values() if isinstance(tree, dict) else tree
        return [leaf for child in children for leaf in leaves_without_arrays(child)]
    return [] if isinstance(tree, np.ndarray) else [tree]


def test_names_that_a_reader_sees():
    w = np.ones((2, 3))
    tree = {"layers": [Pair(w, None)], "a/b": (w,), "~": w, 7: w, "": w}
    assert list(Structure(tree).leaves) == ["p/layers/0/weight", "p/a~1b/0", "p/~0", "p/7", "p/"]
    assert list(Structure(w).leaves) == ["p"]
    paths = Tree(tree).paths()
    assert {tuple(path) for path in paths} >= Structure(tree).names.keys()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({0: np.ones(1), "0": np.ones(1)}, r"params: two of the keys \[0, '0'\] would have one"),
        ([{(1, 2): np.ones(1)}], r"params\[0\]: the key \(1, 2\) cannot be saved"),
        ({True: np.ones(1)}, "params: the key True cannot be saved"),
        ({"a": {1.5}}, r"params\['a'\]: only arrays.* type set"),
        ({"a": object()}, r"params\['a'\]: only arrays.* type object"),
    ],
)
def test_what_has_no_name_is_refused(tree, message):
    with pytest.raises(TypeError, match=message):
        Structure(tree)


# --- options -------------------------------------------------------------------------------------

NUMBERS = st.floats(0, 1e300) | st.integers(0, 10**6)
SCHEDULES = st.one_of(
    st.builds(schedules.Constant, NUMBERS),
    st.builds(schedules.Cosine, NUMBERS, st.integers(1, 50), end=NUMBERS),
    st.builds(schedules.OneCycle, NUMBERS, st.integers(5, 50), warmup=st.none() | st.just(2)),
)
PIECES = st.builds(
    lambda pieces: schedules.Piecewise(pieces, [7 * (k + 1) for k in range(len(pieces) - 1)]),
    st.lists(NUMBERS | SCHEDULES, min_size=1, max_size=4),
)
KEYS = st.text(max_size=3) | st.integers(-3, 3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text() | SCHEDULES | PIECES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=8,
)


def through_json(lr, options):
    arrays = {}
    saved = json.loads(json.dumps(options_to_json(lr, options, arrays)))
    return options_from_json(saved, arrays)


def types_of(value):
    if isinstance(value, dict):
        return type(value), [(key, types_of(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [types_of(one) for one in value]
    return type(value)


@given(VALUES, st.dictionaries(st.text(max_size=3), VALUES, max_size=3))
def test_every_value_comes_back_as_it_was(lr, options):
    back = through_json(lr, options)
    assert back == (lr, options)
    assert types_of(back[1]) == types_of(options)
    assert equal(back, (lr, options))


def test_arrays_and_bounds_come_back_in_float64():
    low, rate = np.array([0, 1], np.int32), np.array([[1e-3], [1.0]], np.float32)
    options = {
        "bounds": {"w": (low, np.array(2.0)), "b": Bounds(low, np.inf), "c": np.float32(1)},
    }
    arrays = {}
    saved = options_to_json([rate, 0.1], options, arrays)
    assert list(arrays) == ["options/lr/0", *(f"options/bounds/{k}" for k in range(3))]
    lr, back = options_from_json(saved, arrays)
    assert np.array_equal(lr[0], rate)
    assert lr[0].dtype == np.float64
    assert lr[1] == 0.1
    assert back["bounds"]["w"][1] == 2.0
    assert np.array_equal(back["bounds"]["b"].lb, low)
    assert np.all(back["bounds"]["b"].ub == np.inf)
    assert equal(back, options)
    assert equal(options, back)
    for other in ((low + 1, 2.0), (low, 3.0), (0.0, 2.0)):
        assert not equal(back, {**options, "bounds": {**options["bounds"], "w": other}})


class Mine(schedules.Constant):
    """A schedule of a user: its class may compute anything."""


@pytest.mark.parametrize(
    ("lr", "options", "message"),
    [
        (lambda t: 0.1, {}, "lr: a function of the user's cannot be saved .*<lambda>.*opt.step"),
        (Mine(0.1), {}, "lr: a function .*Mine"),
        ([0.1, {"w": abs}], {}, r"lr\[1\]\['w'\]: a function .*abs.* numadam.schedules\.$"),
        (schedules.Piecewise([0.1, abs], [5]), {}, r"lr.values\[1\]: a function"),
        (0.1, {"groups": {"w": {"beta1": abs}}}, r"groups\['w'\]\['beta1'\]: a function"),
        (0.1, {"bounds": {(1, 2): (0, 1)}}, r"bounds: the key \(1, 2\) cannot"),
        (0.1, {"bounds": [{1.5}]}, r"bounds\[0\]: a set cannot be saved. Use numbers"),
        (0.1, {"bounds": np.array([1j])}, "bounds: expected real numbers"),
    ],
)
def test_what_cannot_be_saved_is_named(lr, options, message):
    with pytest.raises(TypeError, match=message):
        options_to_json(lr, options, {})


def test_state_of_a_plateau_is_checked():
    plateau = schedules.ReduceOnPlateau(0.1)
    before = repr(plateau)
    good = {"value": 0.01, "best": 2.0, "waited": 1, "cooling": 0}
    for name, bad in {"value": -1.0, "best": np.nan, "waited": -1, "cooling": 0.5}.items():
        with pytest.raises((TypeError, ValueError), match=name):
            plateau.set_state(**{**good, name: bad})
    assert repr(plateau) == before

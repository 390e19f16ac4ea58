"""What is written is what is read, here and by the safetensors library."""

import math

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

import numadam as na
from numadam._checkpoint import container
from numadam._checkpoint.container import Container, read, write
from tests.checkpoint.files import REALS, image, layouts, read_bytes, same, small, some
from tests.processes import python

DTYPES = [*map(np.dtype, REALS), np.dtype("complex64"), np.dtype("complex128")]


def as_in_file(array):
    """A complex array as two real ones, side by side in a last axis."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    return np.stack([array.real, array.imag], axis=-1) if array.dtype.kind == "c" else array


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout_comes_back_here_and_in_the_safetensors_library(tmp_path, dtype):
    arrays = layouts(dtype)
    content = image(tmp_path / "a", Container("optimizer", {}, arrays))
    found = read(tmp_path / "a", "optimizer").arrays
    assert same(found, arrays)
    for array in found.values():
        flags = array.flags
        assert type(array) is np.ndarray
        assert all((flags.c_contiguous, flags.owndata, flags.writeable, flags.aligned))
    theirs = dict(safetensors.deserialize(content))
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        expected = as_in_file(array)
        code = f"{expected.dtype.kind}{8 * expected.itemsize}".upper()
        assert theirs[name]["dtype"] == {"B8": "BOOL"}.get(code, code)
        assert theirs[name]["shape"] == list(expected.shape)
        assert bytes(theirs[name]["data"]) == expected.tobytes()
    with safe_open(tmp_path / "a", "np") as file:
        for name, array in arrays.items():
            assert file.get_tensor(name).dtype == as_in_file(array).dtype


def test_library_gets_the_metadata_and_aligned_arrays(tmp_path):
    """Who maps the file gets arrays at multiples of their element size."""
    content = image(tmp_path / "a", small())
    with safe_open(tmp_path / "a", "np") as file:
        found = file.metadata()
    assert (found["format"], found["version"], found["kind"]) == ("numadam", "1", "optimizer")
    assert found["meta"] == '{"lr":0.001,"beta":[0.9,Infinity]}'
    assert len(found["crc32:m/ä"]) == 8
    assert "complex:m/ä" in found
    end = 8 + int.from_bytes(content[:8], "little")
    assert content[end - 1] in b" }"
    assert end % 64 == 0
    assert content.index(np.array(7).tobytes()) % 8 == 0


@pytest.mark.parametrize(
    "metadata", [None, {"format": "numadam", "version": "1", "kind": "optimizer", "meta": "{}"}]
)
def test_a_file_of_the_library_is_refused(tmp_path, metadata):
    safetensors.numpy.save_file({"p/w": np.ones(3)}, tmp_path / "a", metadata)
    with pytest.raises(na.CheckpointError, match="a: not a checkpoint of numadam"):
        read(tmp_path / "a", "optimizer")


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


def test_what_json_has_not_is_refused(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(tmp_path / "a", Container("optimizer", {"a": len}, {}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "error", "text"),
    [
        ({"a": np.array([None])}, TypeError, r"arrays\['a'\]: expected a NumPy array of float64"),
        ({"a": np.ones(3, np.longdouble)}, TypeError, r"arrays\['a'\].*got"),
        ({"a": [1.0]}, TypeError, r"got \[1.0\]"),
        ({"": np.ones(1)}, ValueError, "the name '' is reserved"),
        ({"__metadata__": np.ones(1)}, ValueError, "is reserved"),
        ({"a\n": np.ones(1)}, ValueError, "has a control character"),
        ({"a\udc80": np.ones(1)}, ValueError, "has a control character"),
        ({"a/../b": np.ones(1)}, ValueError, "has the part '..'"),
    ],
)
def test_arrays_that_a_file_cannot_hold_are_refused(tmp_path, arrays, error, text):
    with pytest.raises(error, match=text):
        write(tmp_path / "a", Container("optimizer", {}, {"first": np.ones(2), **arrays}))
    assert list(tmp_path.iterdir()) == []


def test_too_long_headers_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"meta: 16,777,2.. characters"):
        write(tmp_path / "a", Container("optimizer", {"a": "x" * (1 << 24)}, {}))
    monkeypatch.setattr(container, "LONGEST", 500)
    with pytest.raises(ValueError, match="6 names are too many"):
        write(tmp_path / "a", small())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "wanted", "text"),
    [
        ("optimizer", "minimize_many", r"an optimiser, not by numadam\.minimize_many\."),
        ("minimize", "optimizer", r"numadam\.minimize, not by an optimiser\."),
    ],
)
def test_kinds(tmp_path, kind, wanted, text):
    write(tmp_path / "a", Container(kind, {}, {}))
    with pytest.raises(na.CheckpointError, match=f"a: was saved by {text}"):
        read(tmp_path / "a", wanted)


def test_other_byte_orders(tmp_path, monkeypatch):
    """Arrays of the other order are saved; the reader of such a machine turns them."""
    array = some("float32", 5)
    little = image(tmp_path / "a", Container("optimizer", {}, {"a": array}))
    swapped = array.astype(array.dtype.newbyteorder())
    assert image(tmp_path / "a", Container("optimizer", {}, {"a": swapped})) == little
    monkeypatch.setattr("sys.byteorder", "big")
    assert read_bytes(little).arrays["a"].tobytes() == swapped.tobytes()


def test_chunks(tmp_path, monkeypatch):
    """Arrays of more than one chunk, in every layout."""
    monkeypatch.setattr("numadam._checkpoint.storage.CHUNK_BYTES", 64)
    arrays = {f"{dtype}/{name}": a for dtype in DTYPES for name, a in layouts(dtype).items()}
    write(tmp_path / "a", Container("optimizer", {}, arrays))
    assert same(read(tmp_path / "a", "optimizer").arrays, arrays)


def test_an_array_that_changes_meanwhile_gives_a_whole_file(tmp_path, monkeypatch):
    array = np.zeros(1000)
    crc32 = container.zlib.crc32

    def change(content, crc=0):
        array[...] += 1
        return crc32(content, crc)

    monkeypatch.setattr(container.zlib, "crc32", change)
    write(tmp_path / "a", Container("optimizer", {}, {"a": array}))
    monkeypatch.undo()
    assert len({*read(tmp_path / "a", "optimizer").arrays["a"]}) == 1


def test_files_of_real_arrays_load_no_numba(tmp_path):
    code = f"""
    import sys
    from numadam._checkpoint.container import Container, read, write
    write({str(tmp_path / "a")!r}, Container("optimizer", {{}}, {{"a": np.ones(3)}}))
    read({str(tmp_path / "a")!r}, "optimizer")
    print([name for name in ("numba", "cupy", "safetensors") if name in sys.modules])
    """
    assert python(code) == "[]"


def test_an_empty_path_is_no_folder():
    """It would be the current one: a variable that is not set, say."""
    opt = na.Adam(np.ones(2))
    for load in (na.load, opt.load):
        with pytest.raises(ValueError, match=r"^path: is empty"):
            load("")

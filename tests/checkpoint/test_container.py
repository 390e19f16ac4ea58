"""What is written is what is read, by numadam and by `numpy.load`; all else is refused."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
import zipfile

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint.container import Container, read, write
from tests.checkpoint.contents import DTYPES, content, layouts, same


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


def test_equal_contents_give_equal_files_that_any_zip_reads(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, content())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with np.load(tmp_path / "a") as file:
        head = json.loads(file["numadam.json"])
    assert head == {"version": 2, "kind": "optimizer", "meta": content().meta, "arrays": 5}


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
    "too many axes": header((1,) * 65 + (0,)),
    "objects": header((0,), "|O"),
    "texts": header((0,), "<U1"),
    "records": member("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (0,), }\n"),
    "another version": b"\x93NUMPY\2\0" + header((0,))[8:],
    "no header": b"",
    "no array": b"something else",
    "no literal": member("len"),
    "a long header": member("-" * 9000 + "1"),
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


def test_an_empty_path_is_refused():
    """It would be the current folder: a variable that is not set, say."""
    opt = na.Adam(np.ones(2))
    for load in (na.load, opt.load):
        with pytest.raises(ValueError, match=r"^path: is empty"):
            load("")

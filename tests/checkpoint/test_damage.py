"""Damaged and forged files are refused with a sentence, and take no memory that they only claim."""

import io
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numadam as na
from numadam._checkpoint import container, header
from numadam._checkpoint.container import Container
from tests.checkpoint.files import crc32, entry, header_text, image, read_bytes, same, sealed, small

AXIS = "last axis is real, imaginary"
W = ("w", entry("F64", [2], 0, 16), crc32(bytes(16)))


def refused(content, text=None):
    """Whether a file is refused, by the right exception, and one that names it."""
    with pytest.raises(na.CheckpointError, match=text) as found:
        read_bytes(content)
    assert str(found.value).startswith("a.file: ")
    assert len(str(found.value)) < 500


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return image(tmp_path_factory.mktemp("files") / "a", small())


def test_every_changed_byte_is_refused(whole):
    """Each flipped bit among them."""
    for at, byte in enumerate(whole):
        for new in {byte ^ 1 << bit for bit in range(8)} | {0, 32, 48, 255} - {byte}:
            with pytest.raises(na.CheckpointError):
                read_bytes(whole[:at] + bytes([new]) + whole[at + 1 :])


def test_every_truncation_is_refused(whole):
    for size in range(len(whole)):
        refused(whole[:size])


def test_appended_and_inserted_bytes_are_refused(whole):
    for more in (b"\0", b" ", b"\0" * 64, whole):
        refused(whole + more, "not whole: its arrays have")
    for at in range(0, len(whole), 7):
        refused(whole[:at] + b" " + whole[at:])
        refused(whole[:at] + whole[at + 1 :])


def test_swapped_arrays_are_refused(tmp_path):
    arrays = {"a": np.arange(4.0), "b": np.arange(4.0) + 1}
    content = image(tmp_path / "a", Container("optimizer", {}, arrays))
    refused(content[:-64] + content[-32:] + content[-64:-32], "the checksum of 'a' is wrong")


def test_messages_say_what_is_wrong(whole):
    refused(b"", "not a checkpoint of numadam")
    refused(b"\x80\x04" + b"x" * 300, "not a checkpoint of numadam")
    refused(whole[:200], "not whole: the file ends inside its header")
    refused(whole[:-1], "not whole: its arrays have 56 bytes, the file has 55 for them")
    at = whole.index(b'"shape"')
    refused(whole[:at] + b"x" + whole[at + 1 :], "checksum of the header is wrong. Use another")
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    refused(flipped, "damaged: the checksum of 'flag' is wrong. Use another copy of the file")
    text = header_text([W], version="2").replace('"kind"', '"new key":"","kind"')
    refused(sealed(text, bytes(16)), "has version 2 of the format.*reads up to 1: upgrade numadam")


def test_forged_files_begin_as_real_ones():
    """The forgeries below are refused for what they are about."""
    assert read_bytes(sealed(header_text([W]), bytes(16))).arrays["w"].tolist() == [0, 0]


def forged(dtype="F64", shape=(2,), begin=0, end=16, name="w", crc=W[2]):
    return [(name, entry(dtype, list(shape), begin, end), crc)]


TWICE = [W, ("v", entry("F64", [2], 0, 16), W[2])]
GAP = [W, ("v", entry("F64", [2], 24, 40), W[2])]
SAME = [W, ("w", entry("F64", [2], 16, 32), W[2])]
HOSTILE = {
    "overlap": header_text(TWICE),
    "gap": header_text(GAP),
    "begins late": header_text(forged(begin=8, end=24)),
    "ends early": header_text(forged(end=8)),
    "duplicate key": header_text(SAME),
    "negative offset": header_text(forged(begin=-16, end=0)),
    "negative shape": header_text(forged(shape=(-2,))),
    "giant offset": header_text(forged(end=2**64)),
    "giant shape": header_text(forged(shape=(2**62,), end=2**65)),
    "giant but one axis is 0": header_text(forged(shape=(0, 2**61), end=0, crc="00000000")),
    "larger than an integer of C": header_text(
        forged(shape=(0, 10**19 - 1), end=0, crc="00000000")
    ),
    "product overflows to 16": header_text(forged(shape=(2**32, 2**32, 2))),
    "giant integer": header_text([W]).replace("[2]", f"[{'9' * 5000}]"),
    "float shape": header_text(forged(shape=(2.0,))),
    "true in shape": header_text(forged(shape=(2, True))),
    "text in shape": header_text(forged(shape=("2",))),
    "wrong dtype": header_text(forged(dtype="F8_E4M3", shape=(16,))),
    "unknown dtype": header_text(forged(dtype="float64")),
    "dtype of another size": header_text(forged(dtype="F32")),
    "too many axes": header_text(forged(shape=(1,) * 65 + (2,))),
    "dots": header_text(forged(name="a/../../etc")),
    "NUL": header_text(forged(name="a\\u0000b")),
    "raw NUL": header_text(forged(name="a\0b")),
    "lone surrogate": header_text(forged(name="\\ud800")),
    "empty name": header_text(forged(name="")),
    "spelling of a name": header_text(forged(name="\\u0077")),
    "no tensor for a sum": header_text([W], extra=',"crc32:v":"00000000"'),
    "sum of another name": header_text([W]).replace("crc32:w", "crc32:v"),
    "unknown metadata": header_text([W], extra=',"more":"x"'),
    "complex of a missing name": header_text([W], extra=f',"complex:v":"{AXIS}"'),
    "complex of another text": header_text([W], extra=',"complex:w":"yes"'),
    "complex integers": header_text(forged("I64"), extra=f',"complex:w":"{AXIS}"'),
    "complex without its axis": header_text(
        forged(shape=(1, 2, 1)), extra=f',"complex:w":"{AXIS}"'
    ),
    "metadata twice": header_text([W, ("__metadata__", "{}", "00000000")]),
    "nested": header_text([("w", "[" * 100_000 + "]" * 100_000, W[2])]),
    "nested meta": header_text([W], meta="[" * 200_000 + "]" * 200_000),
    "meta of another type": header_text([W], meta="[]"),
    "meta that ends early": header_text([W], meta='{"a":'),
    "meta with a giant integer": header_text([W], meta='{"a":1' + "0" * 10_000 + "}"),
    "not UTF-8": header_text([W]).encode().replace(b'"w"', b'"\xff"'),
    "not ASCII": header_text(forged(name="ä")),
    "no metadata": '{"w":' + W[1] + "}",
    "no spaces at the end": header_text([W]).rstrip(),
    "more spaces at the end": header_text([W]) + " " * 64,
    "another end": header_text([W])[:-1] + "\t",
    "spaces inside": header_text([W]).replace('"w":{', '"w": {'),
    "checksum in capitals": header_text(forged(crc=W[2].upper())),
    "leading zero": header_text([W]).replace("[0,16]", "[00,16]"),
    "version 0": header_text([W], version="0"),
    "version 01": header_text([W], version="01"),
    "version -1": header_text([W], version="-1"),
    "kind of two words": header_text([W]).replace('"optimizer"', '"an optimizer"'),
    "ends inside the metadata": header_text([W])[:90],
    "only its beginning": header_text([])[:88],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name):
    text = HOSTILE[name]
    for data in (bytes(16), bytes(32), bytes(40), b""):
        refused(sealed(text, data))


def test_the_largest_shape():
    largest = [("w", entry("U8", [0, 2**63 - 1], 0, 0), "00000000")]
    assert read_bytes(sealed(header_text(largest))).arrays["w"].shape == (0, 2**63 - 1)


def test_bools_of_other_bytes_are_refused():
    def file(data):
        return sealed(header_text([("w", entry("BOOL", [2], 0, 2), crc32(data))]), data)

    assert read_bytes(file(b"\0\1")).arrays["w"].tolist() == [False, True]
    refused(file(b"\1\2"), "'w' is bool, but not of zeros and ones")


def test_a_long_meta_is_not_parsed(monkeypatch):
    monkeypatch.setattr(container, "LONGEST_META", 10)
    assert read_bytes(sealed(header_text([W], meta='{"a": 123}'), bytes(16))).meta == {"a": 123}
    refused(
        sealed(header_text([W], meta='{"a": 1234}'), bytes(16)), "meta: 11 characters, 1 of them"
    )


def test_shapes_that_numpy_cannot_make_are_refused(monkeypatch):
    def too_many(*args):
        raise ValueError("maximum supported dimension for an ndarray is 32")

    monkeypatch.setattr(container.storage, "new_array", too_many)
    refused(sealed(header_text([W]), bytes(16)), "'w': maximum supported dimension")


def peak(content):
    """Bytes that reading takes at most, on top of the file itself."""
    tracemalloc.start()
    try:
        with pytest.raises(na.CheckpointError):
            read_bytes(content)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


LENGTHS = [0, 1, 8, header.LONGEST, header.LONGEST + 1, 2**31, 2**32, 2**63, 2**64 - 1]


@pytest.mark.parametrize("length", LENGTHS)
def test_claimed_lengths_take_no_memory(whole, length):
    assert peak(length.to_bytes(8, "little") + whole[8:]) < 100_000


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20), (10**9, 0, 10**9)])
def test_claimed_shapes_take_no_memory(shape):
    size = 8 * int(np.prod(shape, dtype=object))
    assert peak(sealed(header_text(forged(shape=shape, end=size)), bytes(16))) < 100_000


def test_a_long_header_takes_a_few_times_its_length():
    """Thousands of arrays, brackets without end, a long name, a long meta."""
    empty = [(f"{i}", entry("F64", [0], 0, 0), "00000000") for i in range(3000)]
    for text in (
        header_text(empty) + " " * 64,
        header_text([("w", "[" * 100_000, "00000000")]),
        header_text([("w" * 100_000, "[]", "00000000")]),
        header_text([W], extra="".join(f',"crc32:{i}":"00000000"' for i in range(30_000))),
        header_text([W], extra="".join(f',"complex:{i}":"{AXIS}"' for i in range(30_000))),
        header_text([W], meta="[" * 100_000),
        header_text([W], meta='"' * 100_000),
    ):
        content = sealed(text)
        assert peak(content) < 12 * len(content)


def test_meta_takes_memory_within_its_limit():
    """Nested brackets take the most; one that is too long or too dense is not read as JSON."""
    nested = ",".join(["[" * 800 + "]" * 800] * 60)
    content = sealed(header_text([W], meta=f"[{nested}]"), bytes(16))
    assert peak(content) < 12 * len(content)
    longest = f"[{nested}]" + " " * (header.LONGEST_META - len(nested) - 1)
    assert peak(sealed(header_text([W], meta=longest), bytes(16))) < 12 * len(longest) < 6e7


#: Entries of a list in options: too dense ones, and the densest that are read.
NESTED = ["[]", "[0]", "{}", "[],10", "[0],1", "[0,1]", '{"dict":[[0,0]]},1', '{"tuple":[]}']


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("place", ["lr", "options/ema"])
def test_what_is_made_of_meta_takes_memory_within_its_limit(place, nested, tmp_path, monkeypatch):
    """Options are decoded, copied and shown in an error."""
    path = tmp_path / "a"
    na.Adam(np.ones(2)).save(path)
    content = container.read(path, "optimizer")
    outer, _, name = place.rpartition("/")
    inside = content.meta[outer] if outer else content.meta
    inside[name] = json.loads(f"[{','.join([nested] * (120_000 // len(nested)))}]")
    with monkeypatch.context() as patch:
        patch.setattr(container, "FEW_BRACKETS", 10**9)
        container.write(path, content)
    length = path.stat().st_size
    del content, inside
    with pytest.raises(na.CheckpointError):
        na.load(path)  # imports what it needs
    tracemalloc.start()
    try:
        with pytest.raises(na.CheckpointError):
            na.load(path)
        assert tracemalloc.get_traced_memory()[1] < 45 * length
    finally:
        tracemalloc.stop()


DENSEST = [
    ([np.ones(2), *[[]] * 20_000], None),
    ([np.ones(2), *[{}] * 20_000], None),
    (np.ones(20_000), [[0, 1]] * 20_000),
]


@pytest.mark.parametrize(("params", "bounds"), DENSEST, ids=["lists", "dicts", "bounds"])
def test_the_densest_meta_of_numadam_is_read(params, bounds, tmp_path):
    na.Adam(params, bounds=bounds).save(tmp_path / "a")
    assert len(na.load(tmp_path / "a").params) == len(params)


def test_a_file_takes_the_memory_of_its_arrays(tmp_path):
    content = Container("optimizer", {}, {"a": np.ones((2000, 1000)), "b": np.ones((3, 4), "f4")})
    tracemalloc.start()
    try:
        container.write(tmp_path / "a", content)
        assert tracemalloc.get_traced_memory()[1] < 1.5e6
        kept = container.read(tmp_path / "a", "optimizer")
        assert tracemalloc.get_traced_memory()[1] < 16.2e6
        assert kept.arrays["a"].all()
        tracemalloc.reset_peak()
        tall = {"a": kept.arrays["a"].T}  # no copy of an array in another order
        before = tracemalloc.get_traced_memory()[0]
        container.write(tmp_path / "a", Container("optimizer", {}, tall))
        assert tracemalloc.get_traced_memory()[1] - before < 3e6
    finally:
        tracemalloc.stop()


def test_a_file_that_is_cut_while_it_is_read(whole):
    """Its size was larger when it was opened."""
    for size in (0, 50, 150, len(whole) - 10):
        with pytest.raises(na.CheckpointError, match=r"a\.file: not"):
            container.read_open(io.BytesIO(whole[:size]), len(whole), "a.file", "optimizer")


def test_reading_in_small_pieces(whole):
    """A system may give less than it is asked for."""

    class Slow(io.BytesIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:3])

    found = container.read_open(Slow(whole), len(whole), "a.file", "optimizer")
    assert same(found.arrays, read_bytes(whole).arrays)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content):
    refused(content)
    refused(sealed(header_text([W])[:80].encode() + content))


@given(st.data())
def test_random_edits_are_refused(whole, data):
    """Edits of real headers, with a checksum that is right."""
    end = 8 + int.from_bytes(whole[:8], "little")
    text = bytearray(whole[8:end])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    content = sealed(bytes(text), whole[end:])
    try:
        found = read_bytes(content)
    except na.CheckpointError:
        return
    same_size = sum(array.nbytes for array in found.arrays.values())
    assert same_size == len(whole) - end

"""Header of a checkpoint: what safetensors says of arrays, and what numadam adds.

The text of a header follows from its content alone: the reader writes what it has read again, and
takes nothing else. So offsets have no gaps and no overlaps, no key comes twice, and a number has
one spelling. Patterns find the content, so that no tree is built of what a stranger nests.

The first characters are the same in every version: format, version and the header's checksum.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import IO, Any, NamedTuple

from numadam._checkpoint.storage import COMPLEX, ITEMSIZES, CheckpointError

#: Version of the format that is written, and the newest that is read.
VERSION = 1
#: Bytes of a header, some 100,000 arrays: reading it takes twelve times as many.
LONGEST = 1 << 24
#: Bytes of `meta` as JSON. All that is made of it takes 45 times as many at most, since it has so
#: few brackets: the shortest that numadam writes in numbers are ``{"list":[]},`` and ``[0,1],``.
LONGEST_META = 1 << 22
CHARACTERS_A_BRACKET, FEW_BRACKETS = 6, 1_000
_LENGTH = 8  # bytes in front of the header, which say how long it is
_BEGINNING = 100  # bytes that hold what `_BEGIN` matches
_ALIGNMENT = 64
_LARGEST = 2**63 - 1
#: Value of the key "complex:NAME".
_AXIS = "last axis is real, imaginary"

_BEGIN = re.compile(
    rb'\{"__metadata__":\{"format":"numadam","version":"([1-9]\d{0,8})",'
    rb'"header_crc32":"([0-9a-f]{8})",'
)
_REST = r'[^"\\]*+(?:\\.[^"\\]*+)*+"'  # of a string, after its first quotation mark
_METADATA = re.compile(rf'"kind":"(\w{{1,32}})","meta":("{_REST})')
_SUM = re.compile(rf',"crc32:{_REST}:"([0-9a-f]{{8}})"')
_COMPLEX = re.compile(rf',"complex:({_REST}):"{_AXIS}"')
_ENTRY = re.compile(
    rf',"({_REST}):\{{"dtype":"(\w{{1,8}})","shape":\[((?:\d{{1,19}}(?:,\d{{1,19}}){{0,63}})?)\],'
)
_MISSPELLED = "not spelled as numadam writes it"
_BAD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Entry(NamedTuple):
    """An array as the file holds it; `crc32` is 8 hexadecimal digits."""

    name: str
    code: str
    shape: tuple[int, ...]
    is_complex: bool
    crc32: str = "0" * 8

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) * ITEMSIZES[self.code]


class Header(NamedTuple):
    """Content of a header."""

    kind: str
    meta: str  # JSON
    entries: Sequence[Entry]

    @property
    def in_file_order(self) -> list[Entry]:
        """The arrays as their data lie: wide dtypes first, so that each is aligned."""
        return sorted(self.entries, key=lambda entry: -ITEMSIZES[entry.code])

    @property
    def begins(self) -> dict[str, int]:
        """The first byte of each array among the data."""
        found, at = {}, 0
        for entry in self.in_file_order:
            found[entry.name] = at
            at += entry.nbytes
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all data."""
        return sum(entry.nbytes for entry in self.entries)


def name_fault(name: str) -> str:
    """Why a name cannot be that of an array in a file; "" where it can."""
    if not name or name == "__metadata__":
        return "is reserved"
    if _BAD.search(name):
        return "has a control character or half of a character"
    if ".." in name.split("/"):
        return "has the part '..'"
    return ""


def render(header: Header) -> tuple[bytes, int]:
    """The first bytes of a file: length, text, spaces up to the data; and the checksum in them."""
    text = "".join(_pieces(header)).encode()
    text += b" " * (-(_LENGTH + len(text)) % _ALIGNMENT)
    return _sealed(len(text).to_bytes(_LENGTH, "little") + text)


def _pieces(header: Header) -> Iterator[str]:
    """The text in pieces, as `json.dumps` has it; a tree of the whole takes 20 times the memory."""
    yield f'{{"__metadata__":{{"format":"numadam","version":"{VERSION}",'
    yield f'"header_crc32":"{"0" * 8}","kind":"{header.kind}","meta":{json.dumps(header.meta)}'
    for entry in header.entries:
        yield f',{json.dumps(f"crc32:{entry.name}")}:"{entry.crc32}"'
    for entry in header.entries:
        if entry.is_complex:
            yield f',{json.dumps(f"complex:{entry.name}")}:"{_AXIS}"'
    yield "}"
    begins = header.begins
    for entry in header.entries:
        begin, shape = begins[entry.name], ",".join(map(str, entry.shape))
        yield f',{json.dumps(entry.name)}:{{"dtype":"{entry.code}","shape":[{shape}],'
        yield f'"data_offsets":[{begin},{begin + entry.nbytes}]}}'
    yield "}"


def crc32_text(crc: int) -> str:
    """A checksum as it stands in the file."""
    return f"{crc:08x}"


def _sealed(head: bytes | bytearray) -> tuple[bytes, int]:
    """The same with its checksum, which is computed with zeros in its place; and that checksum."""
    begin = _BEGIN.match(head, _LENGTH)
    assert begin is not None  # the caller has rendered or matched it
    at, end = begin.span(2)
    crc = zlib.crc32(b"".join([head[:at], b"0" * 8, head[end:]]))
    return b"".join([head[:at], crc32_text(crc).encode(), head[end:]]), crc


def read_header(file: IO[bytes], size: int, path: str) -> tuple[Header, int]:
    """Read and check the header of an open file of so many bytes; with its checksum."""
    length = int.from_bytes(file.read(_LENGTH), "little")
    if _BEGIN.match(file.read(_BEGINNING)) is None or length > LONGEST:
        raise CheckpointError(
            f"{path}: not a checkpoint of numadam, or damaged in its first bytes."
        )
    if _LENGTH + length > size:
        raise CheckpointError(f"{path}: not whole: the file ends inside its header.")
    file.seek(0)
    head = bytearray(_LENGTH + length)
    fill(file, head, path)
    begin = _BEGIN.match(head, _LENGTH)
    if begin is None or _sealed(head)[0] != head:
        raise CheckpointError(
            f"{path}: damaged: the checksum of the header is wrong. Use another copy of the file."
        )
    if int(begin[1]) > VERSION:
        raise CheckpointError(
            f"{path}: has version {int(begin[1])} of the format, and this numadam reads up to "
            f"{VERSION}: upgrade numadam."
        )
    try:
        header = _parse(head[_LENGTH:].decode("ascii"), begin.end() - _LENGTH)
        if render(header)[0] != head:
            raise ValueError(_MISSPELLED)
    except ValueError as error:  # of JSON and ASCII, too
        raise CheckpointError(f"{path}: damaged or forged header: {error}.") from error
    if header.nbytes != size - len(head):
        raise CheckpointError(
            f"{path}: not whole: its arrays have {header.nbytes} bytes, the file has "
            f"{size - len(head)} for them."
        )
    return header, int(begin[2], 16)


def fill(file: IO[bytes], buffer: Any, path: str) -> None:
    """Read as many bytes as the buffer has."""
    rest = memoryview(buffer)
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]  # files and BytesIO have it
        if not count:
            raise CheckpointError(f"{path}: not whole: it became shorter while it was read.")
        rest = rest[count:]


def _parse(text: str, at: int) -> Header:
    """Content of a header by its text, which the caller compares with `render` of that content."""
    metadata = _METADATA.match(text, at)
    if metadata is None:
        raise ValueError(_MISSPELLED)
    at = metadata.end()
    sums, are_complex = _SUM.findall(text, at), {*_COMPLEX.findall(text, at)}
    entries: dict[str, Entry] = {}
    for crc32, found in zip(sums, _ENTRY.finditer(text, at), strict=False):
        rest, code, numbers = found.groups()
        name, shape = json.loads(f'"{rest}'), tuple(map(int, filter(None, numbers.split(","))))
        entries[name] = Entry(name, code, shape, rest in are_complex, crc32)
        _check(entries[name])
    return Header(metadata[1], json.loads(metadata[2]), list(entries.values()))


def _check(entry: Entry) -> None:
    name, code, shape = entry.name, entry.code, entry.shape
    fault = name_fault(name)
    if fault:
        raise ValueError(f"the name {name[:80]!r} {fault}")
    if code not in ITEMSIZES:
        raise ValueError(f"{name[:80]!r} has the unknown dtype {code}")
    if entry.is_complex and (code not in COMPLEX or shape[-1:] != (2,)):
        raise ValueError(f"{name[:80]!r} is complex, but not two floats an element")
    if prod(n for n in shape if n) * ITEMSIZES[code] > _LARGEST:
        raise ValueError(f"{name[:80]!r} has the shape {shape}, larger than any array")

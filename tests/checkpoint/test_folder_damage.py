"""Folders of shards that are damaged, mixed up or forged: refused, and nothing is written."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint import collective, header
from numadam._checkpoint.collective import assemble
from numadam._checkpoint.container import Container, read, write
from numadam._checkpoint.folder import INDEX, Cut, current_generation, read_index, shard_name
from tests.checkpoint.blocks import Block
from tests.rank_threads import on_ranks


def save(path, size, **options):
    on_ranks(size, lambda ranks: Block(ranks, **options).run(0, 2).save(path))


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "run", 2)
    return tmp_path / "run"


def shard(path, rank):
    return path / shard_name(current_generation(path), rank)


def refused(path, match=None):
    """Refused by one process, and by ranks that have the shards as they are, whose arrays stay."""
    with pytest.raises(na.CheckpointError, match=match) as error:
        na.load(path)

    def load(ranks):
        block = Block(ranks)
        before = [array.tobytes() for array in block.opt.params.values()]
        try:
            block.load(path)
        finally:
            assert [array.tobytes() for array in block.opt.params.values()] == before
            assert block.opt.t == 0

    with pytest.raises(na.CheckpointError, match=match):
        on_ranks(2, load)
    return str(error.value)


@pytest.mark.parametrize("ranks", [2, 3])
def test_masks_of_ghost_cells_are_checked(tmp_path, ranks):
    """By ranks that need them, and by those that do not."""
    path = tmp_path / "run"
    save(path, 2, ghosts=1)
    damaged = bytearray(shard(path, 1).read_bytes())
    damaged[-1] ^= 1
    shard(path, 1).write_bytes(damaged)
    with pytest.raises(na.CheckpointError, match="checksum of 'owned/p/b' is wrong"):
        on_ranks(ranks, lambda ranks: Block(ranks, ghosts=1).load(path))


def test_cut_and_lengthened_files(path):
    for name in (INDEX, shard(path, 0).name, shard(path, 1).name):
        whole = (path / name).read_bytes()
        for length in (0, 8, 100, len(whole) // 2, len(whole) - 1):
            (path / name).write_bytes(whole[:length])
            refused(path)
        (path / name).write_bytes(whole + b"\0")
        refused(path, "not whole")
        (path / name).write_bytes(whole)


@pytest.mark.parametrize("kind", ["missing", "folder", "link", "fifo"])
def test_no_file(path, kind, tmp_path):
    file = shard(path, 1)
    content = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "link":
        (tmp_path / "other").write_bytes(content)
        file.symlink_to(tmp_path / "other")
    elif kind == "fifo":
        os.mkfifo(file)
    refused(path, "is missing" if kind == "missing" else "no regular file")


def test_shards_of_another_time_or_rank(path, tmp_path):
    save(tmp_path / "later", 2)
    shard(path, 0).write_bytes(shard(tmp_path / "later", 0).read_bytes())
    refused(path, "not the file that belongs to this index")


@pytest.fixture
def small(tmp_path):
    """The folder of an array of six elements on two ranks, of one size and one time."""

    def part(rank):
        cut = Cut((3 * rank,), (3,), False, (6,))
        return collective.Part("optimizer", {}, {"p": np.full(3, rank)}, {"p": "p"}, {"p": cut})

    on_ranks(2, lambda ranks: collective.save(tmp_path, ranks, lambda: part(ranks.rank)))
    assert elements(tmp_path) == [0, 0, 0, 1, 1, 1]
    return tmp_path


def elements(path):
    return assemble(path, read_index(path, "optimizer"), {"p": Cut((0,), (6,))})["p"].tolist()


def test_every_byte_matters(small):
    """Every byte of every file, with one bit flipped."""
    for file in list(small.iterdir()):
        whole = bytearray(file.read_bytes())
        for at in range(len(whole)):
            whole[at] ^= 1 << at % 8
            file.write_bytes(whole)
            with pytest.raises(na.CheckpointError):
                elements(small)
            whole[at] ^= 1 << at % 8
        file.write_bytes(whole)
    assert elements(small) == [0, 0, 0, 1, 1, 1]


def test_shards_that_change_places(small):
    files = [shard(small, rank) for rank in range(2)]
    one, other = (file.read_bytes() for file in files)
    assert len(one) == len(other)
    files[0].write_bytes(other)
    files[1].write_bytes(one)
    with pytest.raises(na.CheckpointError, match="not the file that belongs to this index"):
        elements(small)


def forge(path, change):
    """Write the index again, with right checksums and wrong content."""
    found = read(path / INDEX, "index")
    change(found.meta, found.arrays)
    write(path / INDEX, Container("index", found.meta, found.arrays))


GONE = object()


def setting(*keys, value):
    """A change of one entry."""

    def change(meta, arrays):
        where = {"meta": meta, "arrays": arrays}
        for key in keys[:-1]:
            where = where[key]
        if value is GONE:
            del where[keys[-1]]
        else:
            where[keys[-1]] = value

    return change


def array(*value):
    """What the index says of an array."""
    return setting("meta", "arrays", "p/w", value=list(value))


def whole(value):
    return setting("meta", "cuts", "p/w", "whole", value=value)


def boxes(*rows):
    return setting("arrays", "cut/p/w", value=np.array(rows))


def nbytes(value):
    return setting("arrays", "nbytes", value=value)


FORGED = {
    **{
        f"generation {text!r}": setting("meta", "generation", value=text)
        for text in ("../x", "/etc/passwd", "", 7, None, "0" * 15, "0" * 16 + "\n", "é" * 16)
    },
    "no generation": setting("meta", "generation", value=GONE),
    "kind": setting("meta", "kind", value=5),
    "content": setting("meta", "content", value=[]),
    "no content": setting("meta", "content", value=GONE),
    "no arrays": setting("meta", "arrays", value=GONE),
    "arrays are a number": setting("meta", "arrays", value=5),
    "array of nothing": array(),
    "dtype": array("F65", False, "p/w"),
    "another dtype": array("F32", False, "p/w"),
    "complex": array("F64", 1, "p/w"),
    "no cut": array("F64", False, "p/x"),
    "another cut": array("F64", False, "p/b"),
    "cut is a list": array("F64", False, []),
    "array too many": setting("meta", "arrays", "p/x", value=["F64", False, "p/w"]),
    "array too few": setting("meta", "arrays", "m/w", value=GONE),
    "cuts are a list": setting("meta", "cuts", value=[]),
    "no cuts": setting("meta", "cuts", value={}),
    "flat": setting("meta", "cuts", "p/w", "flat", value=1),
    "is flat": setting("meta", "cuts", "p/w", "flat", value=True),
    "whole of 2^80": whole([2**40, 2**40]),
    "whole of 2^60": whole([2**30, 2**30]),
    "negative whole": whole([-7, 5]),
    "small whole": whole([6, 5]),
    "whole of text": whole("75"),
    "whole of no axes": whole([]),
    "unknown whole": whole(None),
    "boxes outside": boxes([0, 0, 3, 5], [2**62, 2**62, 4, 5]),
    "boxes that wrap": boxes([0, 0, 3, 5], [3, 0, 2**63 - 1, 5]),
    "negative boxes": boxes([0, 0, 3, 5], [-3, 0, 4, 5]),
    "other boxes": boxes([0, 0, 3, 5], [3, 0, 4, 4]),
    "boxes of one": boxes([0, 0, 3, 5]),
    "boxes of floats": setting("arrays", "cut/p/w", value=np.zeros((2, 4))),
    "no boxes": setting("arrays", "cut/p/w", value=GONE),
    "sizes": nbytes(np.array([1, 2])),
    "negative sizes": nbytes(np.array([-1, 2])),
    "no sizes": nbytes(np.zeros(0, np.int64)),
    "sizes of two axes": nbytes(np.zeros((1, 2), np.int64)),
    "sums": setting("arrays", "crc32", value=np.zeros(2, np.uint32)),
    "sums of another dtype": setting("arrays", "crc32", value=np.zeros(2, np.int64)),
    "rule": setting("meta", "content", "rule", value="sgd"),
    "counters": setting("meta", "content", "counters", value={"t": -1}),
    "options": setting("meta", "content", "options", value={"x": 1}),
    "schedules": setting("meta", "content", "schedules", value=[["os.system", {}]]),
}


@pytest.mark.parametrize("case", FORGED)
def test_an_index_that_lies(path, case):
    forge(path, FORGED[case])
    with pytest.raises(na.CheckpointError):
        na.load(path)
    opt = Block(type("Ranks", (), {"rank": 0, "size": 1})).opt
    before = {key: array.tobytes() for key, array in opt.params.items()}
    with pytest.raises(na.CheckpointError):
        opt.load(path)
    assert {key: array.tobytes() for key, array in opt.params.items()} == before
    assert opt.t == 0


def test_a_nesting_that_lies(path):
    """Only a new optimiser is made by it."""
    wrong = {"dict": [["w", {"array": [0, 1]}]]}
    forge(path, setting("meta", "content", "params", value=wrong))
    with pytest.raises(na.CheckpointError):
        na.load(path)


@pytest.mark.parametrize("ranks", [10_000, 3_000_000])
def test_an_index_of_millions_takes_no_memory(path, ranks):
    """Not beyond its own size: a shard is missing, which is seen before arrays are made."""

    def change(meta, arrays):
        arrays["nbytes"] = np.full(ranks, 2**40)
        arrays["crc32"] = np.zeros(ranks, np.uint32)
        for key, axes in (("w", 2), ("b", 1)):
            size = 2**20 if key == "w" else 2**40
            meta["cuts"][f"p/{key}"]["whole"] = [size] * axes
            boxes = np.zeros((ranks, 2 * axes), np.int64)
            boxes[0, axes:] = size
            arrays[f"cut/p/{key}"] = boxes

    forge(path, change)
    size = (path / INDEX).stat().st_size
    tracemalloc.start()
    with pytest.raises(na.CheckpointError, match=r"not whole|missing"):
        na.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size + 2**20


def test_wholes_larger_than_the_files(path):
    """Refused before memory is taken for them."""
    forge(path, setting("meta", "cuts", "p/w", "whole", value=[2**31, 2**29]))
    with pytest.raises(na.CheckpointError, match="its whole arrays are larger than its files"):
        na.load(path)


@pytest.mark.parametrize("kind", ["shard", "index"])
def test_a_newer_version(path, kind):
    """Of either file: refused in a sentence."""
    file = path / INDEX if kind == "index" else shard(path, 0)
    content = file.read_bytes().replace(b'"version":"1"', b'"version":"9"', 1)
    length = 8 + int.from_bytes(content[:8], "little")
    file.write_bytes(header._sealed(content[:length])[0] + content[length:])
    refused(path, "upgrade numadam")

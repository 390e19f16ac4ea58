"""Checkpoints of several ranks in a folder, and their parts of arrays; the ranks are threads."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numadam as na
from numadam._checkpoint import folder as files
from numadam._checkpoint.container import read
from numadam._checkpoint.folder import (
    INDEX,
    Cut,
    Cuts,
    common,
    current_generation,
    shard_name,
)
from numadam.mpi import RankError
from tests.checkpoint.blocks import START, Block, Whole, whole_run
from tests.rank_threads import Group, on_ranks

SIZES = (1, 2, 3)


def save(path, size, steps=3, **options):
    """A checkpoint of so many ranks after some steps."""
    on_ranks(size, lambda ranks: Block(ranks, **options).run(0, steps).save(path))
    return path


def content(path):
    """All files of a folder."""
    return {one.name: one.read_bytes() for one in path.iterdir()}


def assert_same(block, whole):
    """A rank's optimiser is as its rows of that of one process: parameters, state, counters."""
    for name, now in {"params": block.opt.params, **dict(block.opt.state)}.items():
        expected = whole.params if name == "params" else whole.state[name]
        if isinstance(now, dict):
            for key, rows in block.of(expected).items():
                assert now[key].tobytes() == rows.tobytes(), (name, key)
        else:
            assert now == expected, name


def changed(size, path, call, change, only=None):
    """What saves or loads of blocks raise, by rank, after a change of all blocks or of one."""

    def work(ranks):
        block = Block(ranks)
        if only in (None, ranks.rank):
            change(block)
        getattr(block, call)(path)

    return Group(size).run(work)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


OPTIONS = {
    "plain": {},
    "all": {
        "amsgrad": True,
        "ema": 0.9,
        "weight_decay": 0.1,
        "nonfinite": "skip",
    },
    "bounds": {
        "bounds": Whole(
            lambda cut: {
                "w": (cut("w", START["w"] - 0.1), None),
                "b": [(x, x + 1) for x in cut("b", START["b"]) - 0.2],
            }
        ),
        "lr": Whole(lambda cut: {"w": cut("w", np.abs(START["w"])), "b": 0.1}),
    },
}


@pytest.mark.parametrize("case", OPTIONS)
def test_any_number_of_ranks_goes_on_from_any_other(path, case):
    options = {"ghosts": 1, **OPTIONS[case]}
    whole, middle = (whole_run(k, **OPTIONS[case]) for k in (6, 3))

    def go_on(ranks):
        block = Block(ranks, **options).load(path)
        assert_same(block, middle)
        block.run(3, 6)
        assert_same(block, whole)

    for n in SIZES:
        save(path, n, **options)
        assert len(content(path)) == n + 1
        for m in SIZES:
            on_ranks(m, go_on)
        into = whole_run(0, **OPTIONS[case])
        into.load(path)
        for opt in (na.load(path), into):
            whole_run(6, 3, opt)
            for key in START:
                assert opt.params[key].tobytes() == whole.params[key].tobytes()


def test_arrays_of_every_kind(path):
    """Orders, complex numbers, arrays without axes and without elements."""
    cases = {
        "f": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "z": (np.arange(6) + 1j).astype(np.complex64).reshape(6, 1),
        "s": np.array(3.0),
        "e": np.zeros((0, 4)),
    }
    options = {"momentum": 0.9, "groups": {"n": {"frozen": True}}}
    for whole in cases.values():
        opt = na.SGD({"a": whole.copy(order="K"), "n": 1}, **options)
        expected = dict(opt.state)["m"]["a"]
        expected += np.asarray(whole) * np.asarray(2, whole.dtype)

        def part(ranks, whole=whole, values=expected):
            rows = len(whole) if whole.ndim else 1
            low, high = rows * ranks.rank // ranks.size, rows * (ranks.rank + 1) // ranks.size
            cut = slice(low, high) if whole.ndim else ...
            block = Block(ranks)
            block.opt = na.SGD({"a": whole[cut].copy(order="K"), "n": 1}, **options)
            block.opt.state["m"]["a"][...] = values[cut]
            block.comm.offset = {"a": (low,) + (0,) * (whole.ndim - 1) if whole.ndim else ()}
            return block

        for n, m in ((1, 2), (2, 3), (3, 1)):
            on_ranks(n, lambda ranks: part(ranks).save(path))

            def check(ranks, whole=whole):
                block = part(ranks)
                now = block.opt.params["a"], block.opt.state["m"]["a"]
                before = [one.tobytes() for one in now]
                for one in now:
                    one[...] = 0
                block.load(path)
                assert [one.tobytes() for one in now] == before

            on_ranks(m, check)
            loaded = na.load(path)
            assert loaded.params["n"] == 1
            assert loaded.params["a"].dtype == whole.dtype
            assert loaded.params["a"].tobytes() == whole.tobytes()
            assert loaded.state["m"]["a"].tobytes() == expected.tobytes()


# --- ghost cells, and places that are not known -------------------------------------------------


def ghosts_apart(ranks, known=True):
    """A block whose ghost cells have drifted away from the cells of their owner."""
    block = Block(ranks, ghosts=1, known=known).run(0, 2)
    for key, mask in block.comm.owned.items():
        block.opt.params[key][~mask] = 100 + ranks.rank
    return block


def test_owners_count_where_blocks_overlap(path):
    """The same ranks get their own ghost cells again."""
    on_ranks(3, lambda ranks: ghosts_apart(ranks).save(path))
    whole = whole_run(2)
    on_ranks(2, lambda ranks: assert_same(Block(ranks, ghosts=1).load(path), whole))
    assert np.array_equal(na.load(path).params["w"], whole.params["w"])

    def check(ranks):
        block, old = Block(ranks, ghosts=1).load(path), ghosts_apart(ranks)
        for key in START:
            assert block.opt.params[key].tobytes() == old.opt.params[key].tobytes()

    on_ranks(3, check)


def test_two_owners_of_a_cell_must_agree(path):
    def apart(ranks):
        block = ghosts_apart(ranks)
        block.comm.owned = None
        block.save(path)

    on_ranks(3, apart)
    with pytest.raises(na.CheckpointError, match=r"two ranks own .* owned="):
        na.load(path)


def test_without_offsets_the_same_ranks_load(path):
    save(path, 3, known=False)
    middle = whole_run(3)
    for known in (False, True):
        on_ranks(
            3, lambda ranks, known=known: assert_same(Block(ranks, known=known).load(path), middle)
        )
    says = r"3 ranks.*Decomposition\(comm, offset"
    with pytest.raises(na.CheckpointError, match=says):
        na.load(path)
    for saved in (False, True):
        save(path, 3, known=saved)
        with pytest.raises(na.CheckpointError, match=says):
            on_ranks(2, lambda ranks, known=not saved: Block(ranks, known=known).load(path))


def upper(block):
    """As a domain that is no box has it."""
    block.comm.offset["w"] = (block.comm.offset["w"][0] + 2, 0)


def narrow(block):
    block.opt = na.Adam({"w": block.opt.params["w"][:, 1:], "b": block.opt.params["b"]})


def test_another_whole_and_gaps_are_refused_by_who_needs_them(path):
    save(path, 3)
    found = changed(2, path, "load", narrow)
    assert "p/w: the whole array has shape (7, 5) in" in str(found[0])
    changed(2, path, "save", upper)
    with pytest.raises(na.CheckpointError, match=r"p/w: no rank has saved the element \(0, 0\)"):
        na.load(path)


@pytest.mark.parametrize("offset", [(-1, 0), (0,), (0.5, 0), "ab", 3])
def test_offsets_are_checked(path, offset):
    (error,) = changed(1, path, "save", lambda block: block.comm.offset.update(w=offset))
    assert isinstance(error, (TypeError, ValueError))
    assert str(error).startswith("offset: expected 2 whole numbers")
    assert not path.exists()


# --- all or nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("failing", range(3))
def test_what_fails_on_one_rank_is_told_on_all(path, failing, monkeypatch):
    """The old checkpoint stays, and nothing else."""
    old, true_write = content(save(path, 3)), files.NewShard.write

    def write(self, *args):
        nbytes = true_write(self, *args)
        if self._rank == failing:
            raise OSError(28, "No space left on device")
        return nbytes

    monkeypatch.setattr(files.NewShard, "write", write)
    found = changed(3, path, "save", lambda block: block.run(0, 5))
    assert [type(error) for error in found] == [
        OSError if rank == failing else RankError for rank in range(3)
    ]
    assert content(path) == old


@pytest.mark.parametrize("moved", [False, True])
def test_a_failing_commit(path, moved, monkeypatch):
    """Of an index that is there the shards stay, whoever says that something failed."""
    old, true_commit = content(save(path, 2)), files.commit

    def commit(folder, index):
        if moved:
            true_commit(folder, index)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "commit", commit)
    found = changed(3, path, "save", lambda block: block.run(0, 5))
    assert list(map(type, found)) == [OSError, RankError, RankError]
    assert na.load(path).t == (5 if moved else 3)
    assert moved or content(path) == old
    monkeypatch.undo()
    save(path, 2, steps=4)
    assert len(content(path)) == 3


@pytest.mark.parametrize(
    ("name", "value", "errors", "text"),
    [
        ("lr", 0.25, [ValueError, ValueError], "lr"),
        ("beta1", 0.25, [ValueError, ValueError], "option beta1"),
        ("t", 7, [ValueError, ValueError], "counters"),
        ("lr", lambda t: 0.1, [RankError, TypeError], "lr"),
    ],
)
def test_ranks_that_differ_save_nothing(path, name, value, errors, text):
    found = changed(2, path, "save", lambda block: setattr(block.opt, name, value), only=1)
    assert list(map(type, found)) == errors
    assert text in str(found[0])
    assert "rank 1" in str(found[0])
    assert not path.exists()


def test_classes_that_differ_save_and_load_nothing(path):
    def other(kind, **options):
        return lambda block: setattr(block, "opt", kind(block.opt.params, **options))

    found = changed(2, path, "save", other(na.SGD), only=1)
    assert list(map(type, found)) == [ValueError, ValueError]
    assert "rank 1" in str(found[0])
    assert not path.exists()
    save(path, 2)
    blocks = {}

    def load(ranks):
        blocks[ranks.rank] = block = Block(ranks).run(0, 1)
        if ranks.rank == 1:
            other(na.Adam, amsgrad=True)(block)
        block.load(path)

    found = Group(2).run(load)
    assert list(map(type, found)) == [RankError, na.CheckpointError]
    assert_same(blocks[0], whole_run(1))


def test_folders_that_ranks_do_not_share(path, tmp_path):
    places = [path, tmp_path / "other"]
    places[1].mkdir()
    found = Group(2).run(lambda ranks: Block(ranks).save(places[ranks.rank]))
    assert "rank 0 does not see it" in str(found[0])
    assert type(found[1]) is RankError
    assert content(path) == content(places[1]) == {}
    for place in places:
        save(place, 2)
    found = Group(2).run(lambda ranks: Block(ranks).load(places[ranks.rank]))
    assert all("different checkpoints" in str(error) for error in found)


def test_places_that_cannot_be(path, tmp_path):
    path.write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="several ranks save into a folder"):
        save(path, 2)
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "none" / "run", 2)
    path.unlink()
    path.mkdir()
    (path / INDEX).mkdir()
    with pytest.raises(OSError, match="is a folder"):
        save(path, 2)
    (path / INDEX).rmdir()
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        na.load(path)


# --- what killed saves leave --------------------------------------------------------------------


def leftover(path, digits="ab", rank=0, locked=False):
    """A shard that no index names."""
    place = path / shard_name(digits * 8, rank)
    place.write_bytes(b"half")
    if not locked:
        return place
    file = place.open("rb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def test_leftovers_are_removed_by_the_next_save(path):
    save(path, 2)
    left = [leftover(path, "ab", k) for k in range(3)] + [leftover(path, "cd", 2)]
    others = [
        path / "notes.txt",
        path / "abababababababab-x.safetensors",
        path / "ab-0.safetensors",
    ]
    for other in others:
        other.write_bytes(b"mine")
    save(path, 2)
    assert not any(one.exists() for one in left)
    assert all(one.exists() for one in others)
    assert len(content(path)) == 3 + len(others)


@pytest.mark.parametrize("rank", [0, 1])
def test_shards_of_a_save_that_is_on_its_way_stay(path, rank):
    """With that of rank 0, which writes the index, all; else the one that is written."""
    save(path, 2)
    with leftover(path, "ab", rank, locked=True):
        other = leftover(path, "ab", 1 - rank)
        save(path, 2)
        assert (path / shard_name("ab" * 8, rank)).exists()
        assert other.exists() == (rank == 0)
    save(path, 2)
    assert len(content(path)) == 3


def test_without_locks_leftovers_are_known_by_their_age(path, monkeypatch):
    monkeypatch.setattr(files.container, "lock", lambda file: None)
    save(path, 2)
    new, old = leftover(path, "ab"), leftover(path, "cd")
    os.utime(old, (0, time.time() - 4000))
    save(path, 2)  # the shards of the last save go at once
    assert new.exists()
    assert not old.exists()
    assert len(content(path)) == 4


def test_never_what_the_index_names(path, monkeypatch):
    """Another program's save became complete after this one had looked which to remove."""
    save(path, 2)
    generation = current_generation(path)
    seen = []

    def current(folder):
        seen.append(folder)
        return None if len(seen) == 1 else generation

    monkeypatch.setattr(files, "current_generation", current)
    files.remove_leftovers(path)
    assert len(content(path)) == 3
    (path / shard_name(generation, 0)).rename(path / shard_name(generation, 5))
    seen.clear()
    files.remove_leftovers(path)
    assert len(content(path)) == 3


def test_a_damaged_index_is_no_reason_to_remove_shards(path):
    save(path, 2)
    damaged = (path / INDEX).read_bytes()[:-1]
    (path / INDEX).write_bytes(damaged)
    files.remove_leftovers(path)
    assert len(content(path)) == 3
    save(path, 2)  # a new one is
    assert len(content(path)) == 3
    assert na.load(path).t == 3


def test_a_save_beside_another_program(path, monkeypatch):
    """Its shard is removed, or locked, before it is locked: an error, and no mixture."""
    save(path, 1)
    for act in (lambda file: False, lambda file: Path(file.name).unlink()):
        old = content(path)
        monkeypatch.setattr(files.container, "lock", act)
        refused = pytest.raises(OSError, match="another program saves into this folder")
        with refused, files.NewShard(path, "ab" * 8, 0) as shard:
            shard.write(1, {})
        monkeypatch.undo()
        assert content(path) == old


def test_files_hold_the_rows_of_their_ranks_and_are_not_loaded_alone(path):
    save(path, 2)
    generation = current_generation(path)
    for k, rows in enumerate((slice(0, 3), slice(3, 7))):
        arrays = read(path / shard_name(generation, k), "shard").arrays
        assert sorted(arrays) == ["m/b", "m/w", "p/b", "p/w", "v/b", "v/w"]
        assert np.array_equal(arrays["p/w"], whole_run(3).params["w"][rows])
    for name in (shard_name(generation, 0), INDEX):
        with pytest.raises(na.CheckpointError, match="whose folder is what to load"):
            na.load(path / name)


def test_a_folder_that_is_linked_to_or_copied(path, tmp_path):
    path.mkdir()
    link = tmp_path / "link"
    link.symlink_to(path)
    save(link, 2)
    assert na.load(path).t == na.load(link).t == 3
    assert link.is_symlink()
    shutil.copytree(path, tmp_path / "copy")
    shutil.rmtree(path)
    assert na.load(tmp_path / "copy").t == 3


# --- parts of arrays as boxes, against NumPy's own indexing ---------------------------------------


def pieces(part, whole):
    """The boxes of a part of a whole array of this shape."""
    return Cuts(False, whole, np.empty((0, 2 * len(whole)), np.int64)).pieces(part)


WHOLES = [(), (5,), (3, 4), (2, 3, 4), (1, 5, 1), (3, 1, 2, 2), (0, 3)]


@pytest.mark.parametrize("whole", WHOLES, ids=str)
def test_every_range_is_a_few_boxes(whole):
    array = np.arange(prod(whole)).reshape(whole)
    for first in range(array.size + 1):
        for last in range(first, array.size + 1):
            part = np.full(last - first, -1)
            found = pieces(Cut((first,), part.shape, True, whole), whole)
            for piece in found:
                piece.of(part)[...] = array[tuple(map(slice, piece.begin, piece.end))]
            assert part.tolist() == list(range(first, last))
            assert len(found) <= max(1, 2 * len(whole) - 1)


@st.composite
def parts(draw, whole):
    """A cut of a whole array of this shape."""
    if draw(st.booleans()):
        first, last = sorted(draw(st.tuples(*[st.integers(0, prod(whole))] * 2)))
        return Cut((first,), (last - first,), True, whole)
    ends = [sorted(draw(st.tuples(*[st.integers(0, n)] * 2))) for n in whole]
    return Cut(tuple(a for a, _ in ends), tuple(b - a for a, b in ends), False, whole)


def values(cut, whole):
    """What a part holds of an array that counts its elements."""
    array = np.arange(prod(whole)).reshape(whole)
    if cut.flat:
        return array.reshape(-1)[cut.begin[0] : cut.begin[0] + cut.shape[0]]
    return array[tuple(slice(a, a + n) for a, n in zip(cut.begin, cut.shape, strict=True))].copy()


@given(st.data())
def test_what_two_parts_have_in_common_is_copied(data):
    whole = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    one, other = data.draw(parts(whole)), data.draw(parts(whole))
    source, target = values(one, whole), np.full(other.shape, -1)
    for a in pieces(one, whole):
        for b in pieces(other, whole):
            if found := common(a, b):
                b.of(target)[found[1]] = a.of(source)[found[0]]
    expected = values(other, whole)
    assert np.array_equal(target, np.where(np.isin(expected, source), expected, -1))


@given(st.data())
def test_ranks_that_have_something_are_found(data):
    whole = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    cuts = data.draw(st.lists(parts(whole), min_size=1, max_size=5))
    flat = cuts[0].flat
    cuts = [cut for cut in cuts if cut.flat == flat]
    boxes = np.array([cut.begin + cut.shape for cut in cuts], np.int64)
    wanted = data.draw(parts(whole))
    found = Cuts(flat, whole, boxes).meet(wanted)
    meets = [bool(np.isin(values(cut, whole), values(wanted, whole)).any()) for cut in cuts]
    assert all(there for there, needed in zip(found, meets, strict=True) if needed)
    if not flat:
        assert found.tolist() == meets

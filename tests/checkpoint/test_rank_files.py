"""Checkpoints of blocks, on ranks that are threads: of one save on all ranks, or refused on all.

Norms of several processes, with threads in their place: no MPI is needed here.
"""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest

import numadam as na
from numadam._checkpoint import container
from numadam.mpi import RankError
from tests.processes import Group, on_ranks

NAME = "run.npz"


def block(ranks, **options):
    """An optimiser of a block whose length and numbers are this rank's own."""
    return na.Adam({"w": np.full(3 + ranks.rank, 1.0 + ranks.rank)}, comm=ranks, **options)


def steps(opt, count):
    for _ in range(count):
        opt.step({"w": np.sin(opt.params["w"])})


def save(path, count, size=2, **options):
    def work(ranks):
        opt = block(ranks, **options)
        steps(opt, count)
        opt.save(path)
        return opt.params["w"].tobytes()

    return on_ranks(size, work)


def load(path, size=2, **options):
    """t and parameters of all ranks."""

    def work(ranks):
        opt = block(ranks, **options)
        opt.load(path)
        return opt.t, opt.params["w"].tobytes()

    return on_ranks(size, work)


def refused(path, size=2, of=block):
    """What a load raises on each rank; nothing is changed."""

    def work(ranks):
        opt = of(ranks)
        before = opt.params["w"].copy()
        try:
            opt.load(path)
        finally:
            np.testing.assert_array_equal(opt.params["w"], before)
            assert opt.t == 0

    return Group(size).run(work)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_rank_has_a_file_and_goes_on_with_its_bits(tmp_path, size):
    path = tmp_path / NAME
    saved = save(path, 3, size, clip_norm=1.0)
    assert load(path, size, clip_norm=1.0) == [(3, block) for block in saved]
    names = [f"run.{rank}-of-{size}.npz" for rank in range(size)]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    for name, mine in zip(names, saved, strict=True):  # a file is one of a single process, too
        assert na.load(tmp_path / name).params["w"].tobytes() == mine


#: How far a rank has come in a save when the program is killed.
OLD, WRITTEN, RENAMED = range(3)


def killed(folder, old, new, progress):
    """The files of ranks that were killed in the middle of a save, as far as each had come."""
    folder.mkdir()
    for rank, done in enumerate(progress):
        name = f"run.{rank}-of-{len(progress)}"
        shutil.copy((new if done == RENAMED else old) / f"{name}.npz", folder / f"{name}.npz")
        if done == WRITTEN:
            shutil.copy(new / f"{name}.npz", folder / f"{name}.new.npz")


def test_a_save_that_is_killed_anywhere_leaves_one_that_is_complete(tmp_path):
    """And so does the next one, which begins with what the first has left."""
    folders = [tmp_path / str(t) for t in (1, 2, 3)]
    for t, folder in enumerate(folders, 1):
        folder.mkdir()
        saved = [(t, mine) for mine in save(folder / NAME, t)]
        assert load(folder / NAME) == saved
    for progress in itertools.product((OLD, WRITTEN, RENAMED), repeat=2):
        if {*progress} == {OLD, RENAMED}:
            continue  # no rank renames before all have written
        folder = tmp_path / "".join(map(str, progress))
        killed(folder, folders[0], folders[1], progress)
        last = 1 if OLD in progress else 2
        assert [t for t, _ in load(folder / NAME)] == [last, last]
        before = load(folder / NAME)
        with pytest.MonkeyPatch.context() as patch:  # the disk of one rank is full

            def full(path, content, write=container.write):
                if "1-of-2" in path.name:
                    raise OSError(28, "No space left on device")
                write(path, content)

            patch.setattr(container, "write", full)
            with pytest.raises(OSError, match="No space left"):
                save(folder / NAME, 3)
        assert load(folder / NAME) == before
        save(folder / NAME, 3)
        assert load(folder / NAME) == load(folders[2] / NAME)
        assert len([*folder.iterdir()]) == 2


def test_files_of_two_saves_are_refused_on_all_ranks(tmp_path):
    for t in (2, 5):
        (tmp_path / str(t)).mkdir()
        save(tmp_path / str(t) / NAME, t)
    shutil.copy(tmp_path / "5" / "run.1-of-2.npz", tmp_path / "2")
    for error in refused(tmp_path / "2" / NAME):
        assert type(error) is na.CheckpointError
        assert "not of one save: their t are 2, 5" in str(error)


def test_a_file_that_is_missing_is_told_from_a_program_that_has_saved_nothing(tmp_path):
    """The first is refused; the second begins anew, whatever its first save has left."""
    save(tmp_path / NAME, 1)
    first, second = (tmp_path / f"run.{rank}-of-2.npz" for rank in range(2))
    shutil.move(second, tmp_path / "elsewhere")
    for error in refused(tmp_path / NAME):
        assert type(error) is na.CheckpointError
        assert "the file of rank 1 of 2 is missing" in str(error)
    first.replace(tmp_path / "run.0-of-2.new.npz")  # killed before rank 1 had written its own
    for error in refused(tmp_path / NAME):
        assert type(error) is FileNotFoundError


def test_another_number_of_ranks_is_refused_on_all(tmp_path):
    save(tmp_path / NAME, 1, 3)
    for error in refused(tmp_path / NAME):
        assert type(error) is FileNotFoundError
        assert "there is no save of 2 ranks. There are files of 3 ranks: start" in str(error)
    for rank in range(2):
        shutil.copy(tmp_path / f"run.{rank}-of-3.npz", tmp_path / f"run.{rank}-of-2.npz")
    for error in refused(tmp_path / NAME):
        assert type(error) is na.CheckpointError
        assert "of 3, and here is rank" in str(error)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda ranks: block(ranks, nonfinite="skip"), "nonfinite: is 'propagate' in the file"),
        (lambda ranks: na.Adam({"w": np.ones(3)}, comm=ranks), "shape"),
    ],
)
def test_what_does_not_fit_on_one_rank_is_loaded_on_none(tmp_path, make, says):
    save(tmp_path / NAME, 1)
    errors = refused(tmp_path / NAME, of=make)
    assert all(type(error) in (na.CheckpointError, RankError) for error in errors)
    assert all(says in str(error) for error in errors)


@pytest.mark.parametrize("number", [2**70, "x", None, [1]])
def test_a_forged_number_of_a_save_leaves_no_rank_waiting(tmp_path, number):
    save(tmp_path / NAME, 1)
    file = tmp_path / "run.1-of-2.npz"
    content = container.read(file, "optimizer")
    meta = {**content.meta, "ranks": [1, 2, number]}
    container.write(file, content._replace(meta=meta))
    first, second = refused(tmp_path / NAME)
    assert type(second) is na.CheckpointError
    assert type(first) is RankError


@pytest.mark.parametrize(
    ("name", "value"), [("t", 7), ("lr", 0.5), ("clip_norm", 2.0), ("beta1", 0.5)]
)
def test_ranks_that_are_not_alike_save_nothing(tmp_path, name, value):
    def work(ranks):
        opt = block(ranks, clip_norm=1.0)
        if ranks.rank:
            setattr(opt, name, value)
        opt.save(tmp_path / NAME)

    for error in Group(2).run(work):
        assert type(error) is RankError
        assert str(error).startswith(f"{name}: is ")
        assert f"{value} on rank 1. Make the optimisers alike" in str(error)
    assert not [*tmp_path.iterdir()]


def test_what_one_rank_cannot_save_none_saves(tmp_path):
    def work(ranks):
        opt = block(ranks)
        opt.save("" if ranks.rank else tmp_path / NAME)

    first, second = Group(2).run(work)
    assert "path: is empty" in str(second)
    assert type(second) is ValueError
    assert type(first) is RankError
    assert not [*tmp_path.iterdir()]


# --- exchange ------------------------------------------------------------------------------------


def cut(x: np.ndarray, rank: int, ranks: int) -> slice:
    """Unequal blocks, the first one empty where there are several."""
    ends = [0, *(len(x) * k**2 // ranks**2 for k in range(ranks))][1:] + [len(x)]
    ends[1:2] = [0] if ranks > 1 else ends[1:2]
    return slice(ends[rank], ends[rank + 1])


@pytest.mark.parametrize("size", [1, 2, 5, 13])
@pytest.mark.parametrize("option", ["clip_norm", "clip_array_norm"])
def test_any_number_of_ranks_has_the_numbers_of_one(size, option):
    rng = np.random.default_rng(1)
    whole = [rng.standard_normal(700), rng.standard_normal((90, 2))]
    grads = [[rng.standard_normal(a.shape) * 10.0**k for a in whole] for k in (0, 40, -40, 3)]
    options = {option: 0.5, "nonfinite": "skip"}

    def work(ranks):
        at = [cut(a, ranks.rank, size) for a in whole]
        mine = [a[s].copy() for a, s in zip(whole, at, strict=True)]
        opt = na.Adam(mine, comm=ranks, **options)
        seen = []
        for one in grads:
            opt.step([g[s] for g, s in zip(one, at, strict=True)])
            seen.append(opt.grad_norm)
        return at, mine, seen

    done = Group(size).run(work)
    reference = [a.copy() for a in whole]
    opt = na.Adam(reference, **options)
    norms = []
    for one in grads:
        opt.step(one)
        norms.append(opt.grad_norm)
    for at, mine, seen in done:
        assert seen == done[0][2]  # the bits of every rank are the same
        for norm, expected in zip(seen, norms, strict=True):
            np.testing.assert_allclose(norm, expected, rtol=1e-14)
        for part, s, a in zip(mine, at, reference, strict=True):
            np.testing.assert_allclose(part, a[s], rtol=1e-12, atol=1e-15)


def test_each_step_with_a_norm_meets_once_and_others_never():
    def work(ranks):
        free = na.Adam(np.ones(5), comm=ranks, ema=0.9)
        normed = na.Adam(np.ones(5), comm=ranks, clip_norm=1.0)
        normed.step(np.ones(5))  # finds the unit of the squares
        before = ranks.exchanges
        for _ in range(4):
            free.step(np.ones(5))
            normed.step(np.ones(5))
        return ranks.exchanges - before

    assert Group(3).run(work) == [4, 4, 4]

"""Distributed parameters: for any cut into blocks the bits of one process, with every option.

And a rank that cannot take a step: nothing is written anywhere, and no rank waits for ever.

Checkpoints of blocks on ranks of MPI; what they hold is tested on threads.

See `tests/checkpoint/test_rank_files.py`.

Programs of the page on ranks: what they say is right on any number of them.
"""

from __future__ import annotations

import copy
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import numadam as na
from numadam._mpi import ranks_of
from tests.mpi.problems import Twins, cutter, fails_on, random_tree, same_bits
from tests.pages import BLOCK

NESTED = {"w": (40, 3), "layers": [(17,), (600, 2)]}
FLAT = {"x": (1500,)}


LOW = np.linspace(-1.0, 0.0, 1200).reshape(600, 2)


def everything(cut):
    """Options of the one pass that are numbers, or arrays of their own."""
    low = cut({"w": np.full((40, 3), -0.5), "layers": [np.full(17, -2.0), LOW]})
    return {
        "clip_norm": na.schedules.Cosine(2.0, 6),
        "clip_value": 3.0,
        "weight_decay": 1e-2,
        "maximize": True,
        "nonfinite": "skip",
        "ema": 0.9,
        "bounds": {"w": (low["w"], None), "layers": [(x, None) for x in low["layers"]]},
        "groups": {"layers.*": {"lr": 0.2, "weight_decay": 0.0}},
    }


NORM = {"clip_norm": 0.5}
RATES = np.linspace(0.0, 0.1, 1500)
#: Class, shapes, dtype and options.
CASES: dict[str, tuple[Any, Any, Any, Any]] = {
    "float32": (na.Adam, FLAT, "f4", lambda cut: NORM),
    "float64, of each array": (na.AdamW, NESTED, "f8", lambda cut: {"clip_array_norm": 0.5}),
    "complex128": (na.Adam, FLAT, "c16", lambda cut: NORM),
    "lr by element": (na.Adam, FLAT, "f4", lambda cut: {**NORM, "lr": cut({"x": RATES})}),
    "no norm": (na.SGD, NESTED, "f4", lambda cut: {"momentum": 0.9, "nesterov": True}),
}


@pytest.mark.ranks(2)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", CASES)
def test_any_cut_is_as_one_process(comm, case, seed):
    kind, shapes, dtype, options = CASES[case]
    twins = Twins(comm, random_tree(shapes, dtype, 1), options, kind, seed)
    for k in range(5):
        grads = random_tree(shapes, dtype, k, spread=40.0 if dtype == "f8" else 0.0)
        twins.step(grads)
        twins.check()


def test_all_options_of_the_pass_at_once(comm):
    """Gradients that are not finite lie in the block of one rank alone; all skip the step."""
    twins = Twins(comm, random_tree(NESTED, "f8", 1), everything)
    for k in range(7):
        grads = random_tree(NESTED, np.float64, k, spread=2.0)
        if k == 2:
            grads["layers"][1][599] = np.nan
        twins.step(grads)
        twins.check()
    assert twins.mine.skipped == 1


def test_a_guard_that_raises_does_so_on_all_ranks(comm):
    twins = Twins(comm, random_tree(FLAT, "f4", 1), lambda cut: {**NORM, "nonfinite": "raise"})
    grads = random_tree(FLAT, "f4", 1)
    twins.step(grads)
    grads["x"][-1] = np.inf
    with pytest.raises(FloatingPointError, match="at step 2; nothing was changed"):
        twins.mine.step(twins.cut(grads))
    twins.whole.grad_norm  # noqa: B018  # of the last gradients, here as there
    with pytest.raises(FloatingPointError):
        twins.whole.step(grads)
    twins.check()


def test_out_and_params_of_a_call(comm):
    g = random_tree(FLAT, "f4", 3)["x"]
    cut = cutter(comm, 2)
    one = na.Adam(np.zeros(1500, np.float32), **NORM)
    opt = na.Adam(cut(np.zeros(1500, np.float32)), **NORM, comm=comm)
    out, other = np.empty(1500, np.float32), np.ones(1500, np.float32)
    one.step(g, out=out)
    one.step(g, params=other, lr=0.5)
    mine, block = np.empty(len(cut(g)), np.float32), np.ones(len(cut(g)), np.float32)
    opt.step(cut(g), out=mine)
    opt.step(cut(g), params=block, lr=0.5)
    assert same_bits([mine, block], [cut(out), cut(other)])


def test_sparse_and_strided_gradients(comm):
    """The rows of a sparse gradient lie on some ranks; each block has a layout of its own."""
    whole = np.ones((30, 4))
    block = np.ones((30, 8))[:, ::2] if comm.rank else np.ones((30, 4), order="F")
    one = na.SGD([whole], clip_norm=0.1, sparse="dense")
    opt = na.SGD([block], clip_norm=0.1, sparse="dense", comm=comm)
    values = random_tree({"x": (5, 4)}, np.float64, 3)["x"]
    rows = np.arange(0, 10, 2) + 3
    empty = na.Rows(rows[:0], values[:0])
    for _ in range(3):
        mine = na.Rows(rows, values) if comm.rank == comm.size - 1 else empty
        opt.step([mine])
        one.step([na.Rows(rows, values)])
        assert opt.grad_norm == one.grad_norm
    if comm.rank == comm.size - 1:
        assert same_bits(np.array(block), whole)
    else:
        assert (block == 1.0).all()


def test_large_blocks_in_threads(comm):
    """The step has let the GIL go when it asks Python for the sums of the others."""
    n = 400_000
    x, g = np.ones(n, np.float32), random_tree({"x": (n,)}, np.float32, 5)["x"]
    twins = Twins(comm, {"x": x}, lambda cut: NORM)
    for k in range(3):
        twins.step({"x": g * np.float32(10.0**k)})
    twins.check()


def test_copies_snapshots_and_state(comm):
    twins = Twins(comm, random_tree(FLAT, "f4", 1), lambda cut: NORM)
    grads = random_tree(FLAT, "f4", 2)
    twins.step(grads)
    snap, saved = twins.mine.snapshot(), twins.mine.state.copy()
    clone = copy.deepcopy(twins.mine)
    twins.mine.step(twins.cut(grads))
    twins.mine.restore(snap)
    assert same_bits(saved, twins.mine.state.copy())
    clone.step(twins.cut(grads))
    twins.step(grads)
    assert same_bits(clone.params, twins.block)
    assert repr(clone.comm) == f"rank {comm.rank} of {comm.size}"
    twins.mine.reset()
    assert twins.mine.t == 0


# --- a rank that cannot take a step --------------------------------------------------------------


RankError = na.mpi.RankError


def make(comm, **options):
    params = {"w": np.ones((4, 2)), "b": np.ones(3)}
    return na.Adam(params, comm=comm, **{"clip_norm": 1.0, **options})


def grads(value=1.0):
    return {"w": np.full((4, 2), value), "b": np.full(3, value)}


def picture(opt):
    return copy.deepcopy((opt.params, opt.state.copy()))


def wrong_shape(opt):
    opt.step({"w": np.ones((4, 3)), "b": np.ones(3)})


def read_only(opt):
    opt.params["b"].flags.writeable = False
    try:
        opt.step(grads())
    finally:
        opt.params["b"].flags.writeable = True


def raising(error):
    def schedule(t):
        raise error

    return schedule


def interrupted(t):
    signal.raise_signal(signal.SIGINT)
    return 0.1


def with_rate(schedule):
    def step(opt):
        opt.lr = schedule
        try:
            opt.step(grads())
        finally:
            opt.lr = 1e-3

    return step


class Unsaid(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise RuntimeError


#: What the last rank does, its error, and what the others are told of it.
CALLS = {
    "shape": (wrong_shape, ValueError, ""),
    "read-only": (read_only, ValueError, ""),
    "overlap": (lambda opt: opt.step({**grads(), "w": opt.params["w"]}), ValueError, ""),
    "negative rate": (lambda opt: opt.step(grads(), lr=-1.0), ValueError, ""),
    "schedule": (with_rate(lambda t: 1 / 0), ZeroDivisionError, ""),
    "ctrl-c": (with_rate(interrupted), KeyboardInterrupt, ""),
    "no UTF-8": (with_rate(raising(OSError("caf\udce9"))), OSError, r": caf\\udce9"),
    "no text": (with_rate(raising(Unsaid())), Unsaid, ": its text raised RuntimeError"),
}


@pytest.mark.ranks(2)
@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later"])
def test_a_step_that_one_rank_refuses_is_taken_nowhere(comm, case, first):
    opt, last, (call, error, text) = make(comm), comm.size - 1, CALLS[case]
    if not first:
        opt.step(grads(2.0))
    before = picture(opt)
    says = f"step: rank {last} of {comm.size} failed. {error.__name__}{text}"
    with fails_on(comm, last, error, None if comm.rank == last else says):
        call(opt) if comm.rank == last else opt.step(grads())
    assert same_bits(before, (opt.params, opt.state.copy()))
    twin = copy.deepcopy(opt)
    opt.step(grads())  # all go on
    twin.step(grads())
    assert same_bits(opt.params, twin.params)


@pytest.mark.ranks(2)
def test_a_step_without_a_norm_is_refused_alone(comm):
    opt = make(comm, clip_norm=None)
    if comm.rank == 0:
        with pytest.raises(ValueError, match=r"grads\['w'\]: expected shape"):
            wrong_shape(opt)
    opt.step(grads())  # in time for the next one
    assert opt.t == 1


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_a_step_comes_after_it(comm):
    """In the middle of the exchange: the step is whole on every rank, and then the signal."""
    opt, twin = make(comm), make(comm)
    gather = opt._settings.exchange.gather

    def interrupted(*words: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return gather(*words)

    if comm.rank == comm.size - 1:
        opt._settings.exchange.gather = interrupted
        with pytest.raises(KeyboardInterrupt):
            opt.step(grads())
        opt._settings.exchange.gather = gather
    else:
        opt.step(grads())
    twin.step(grads())
    assert same_bits(opt.params, twin.params)
    opt.step(grads())
    assert opt.t == 2


# --- ranks that are not alike --------------------------------------------------------------------


@pytest.mark.ranks(2)
@pytest.mark.parametrize("how", ["set", "passed", "schedule"])
def test_a_learning_rate_of_one_rank_alone_is_refused(comm, how):
    opt, other = make(comm, lr=0.5), comm.rank == 1
    before, passed = copy.deepcopy(opt.params), {}
    if how == "passed":
        passed = {"lr": 0.25 if other else 0.5}
    elif other:
        opt.lr = 0.25 if how == "set" else lambda t: 0.25
    says = r"lr: is 0\.5 on rank 0 and 0\.25 on rank 1 in the same step"
    with pytest.raises(RankError, match=says):
        opt.step(grads(), **passed)
    assert same_bits(before, opt.params)
    opt.lr = 0.5
    opt.step(grads())


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("clip_norm", 2.0, "clip_norm: is 1 on rank 0 and 2 on rank"),
        ("beta1", 0.5, "beta1: is 0.9 on rank 0 and 0.5 on rank"),
        ("t", 7, "t: is 0 on rank 0 and 7 on rank"),
    ],
)
def test_attributes_that_differ(comm, name, value, says):
    opt = make(comm)
    before = copy.deepcopy(opt.params)
    if comm.rank == comm.size - 1:
        setattr(opt, name, value)
    with pytest.raises(RankError, match=says):
        opt.step(grads())
    assert same_bits(before, opt.params)


@pytest.mark.ranks(2)
def test_an_option_that_takes_another_loop_is_set_on_all_ranks_or_on_none(comm):
    made, opt = (
        na.Adam(np.full(3, comm.rank - 0.5), comm=comm, **o) for o in ({"clip_norm": 1.0}, {})
    )
    with fails_on(comm, 1, ValueError, "clip_norm: expected a number"):
        opt.clip_norm = -1.0 if comm.rank == 1 else 1.0
    with pytest.raises(RankError, match="maximize: is True on rank 0 and False on rank 1"):
        opt.maximize = comm.rank == 0
    assert (opt.clip_norm, opt.maximize) == (None, False)
    opt.clip_norm = 1.0
    for one in (opt, made):
        one.step(np.full(3, 1.0 + comm.rank))
    assert same_bits(opt.params, made.params)
    assert opt.grad_norm == made.grad_norm


@pytest.mark.ranks(2)
def test_an_optimiser_is_made_on_all_ranks_or_on_none(comm):
    x = np.array([-3.0, 0.5])
    with fails_on(comm, 0, ValueError, "bounds: lo is above hi"):
        na.Adam(x, comm=comm, bounds=(0.0, 1.0) if comm.rank else (1.0, 0.0))
    assert x[0] == -3.0  # not moved into its bounds
    x.flags.writeable = comm.rank != 1
    with fails_on(comm, 1, ValueError, "read-only"):
        na.Adam(x, comm=comm, bounds=(0.0, 1.0))
    assert x[0] == -3.0


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"kind": na.SGD}, "rule: is adam on rank 0 and sgd on rank"),
        ({"params": [np.ones(3), np.ones(3)]}, "number of arrays: is 1 on rank 0 and 2 on rank"),
        ({"params": {"x": np.ones(3)}}, "names of params: is params on rank 0 and params"),
        ({"params": np.ones(3, "f4")}, "dtype: is float64 on rank 0 and float32"),
        ({"lr": 0.5}, "lr: is 0.001 on rank 0 and 0.5 on rank"),
        ({"clip_norm": 1.0}, "clip_norm: is None on rank 0 and 1.0 on rank"),
        ({"beta2": 0.5}, "beta2: is 0.999 on rank 0 and 0.5 on rank"),
        ({"groups": {"": {"lr": 1.0}}}, "groups: is None on rank 0 and {'': "),
    ],
)
def test_other_arrays_or_options_on_one_rank(comm, other, says):
    given = {"kind": na.Adam, "params": np.ones(3), "comm": comm}
    if comm.rank == comm.size - 1:
        given |= other
    with pytest.raises(RankError, match=says):
        given.pop("kind")(given.pop("params"), **given)


def test_what_is_no_communicator(comm):
    x = np.ones(3)
    with pytest.raises(TypeError, match=r"expected a communicator of mpi4py, such as .*, got str"):
        na.Adam(x, comm="world")
    with pytest.raises(ValueError, match="comm: is COMM_NULL"):
        na.Adam(x, comm=MPI.COMM_NULL)
    with pytest.raises(TypeError, match="comm: adam_update steps the arrays of this process alone"):
        na.adam_update(x, x, x, x, 1, comm=comm)
    with pytest.raises(AttributeError, match="comm: cannot be changed"):
        na.Adam(x, comm=comm).comm = None


def test_pickle_and_freed_communicators(comm):
    own = comm.Dup()
    opt = make(own)
    with pytest.raises(TypeError, match="comm: a communicator cannot be pickled"):
        pickle.dumps(opt)
    assert ranks_of(own) is ranks_of(own)
    own.Free()
    with pytest.raises(ValueError, match="comm: was freed"):
        opt._settings.exchange._ranks.gather(np.zeros(1))


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.fixture
def path(shared_path):
    return shared_path / "run.npz"


def optimiser(comm):
    return na.Adam(np.full(3 + comm.rank, 1.0), clip_norm=1.0, comm=comm)


def run(opt, steps):
    for _ in range(steps):
        opt.step(np.cos(opt.params))


def test_the_same_number_of_ranks_goes_on_with_the_same_bits(comm, path):
    opt, again = optimiser(comm), optimiser(comm)
    run(opt, 3)
    opt.save(path)
    again.load(path)
    run(opt, 3)
    run(again, 3)
    assert (again.t, again.params.tobytes()) == (6, opt.params.tobytes())
    opt.save(path)  # takes the place of the first
    again.load(path)
    assert again.t == 6
    comm.Barrier()
    assert len([*path.parent.iterdir()]) == comm.size


# --- pages ---------------------------------------------------------------------------------------


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "mpi.md"
PROGRAMS = [
    code for need, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if need == "mpi4py"
]


def run_program(number, folder):
    """Run a program of the page by itself in a folder; the names that it leaves behind."""
    names, here = {}, Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(PROGRAMS[number], PAGE.name, "exec"), names)
    finally:
        os.chdir(here)
    return names


def test_blocks_are_as_one_process_and_go_on(comm, shared_path, tmp_path, monkeypatch):
    found = run_program(0, shared_path)
    x = np.concatenate(comm.allgather(found["x"]))
    with monkeypatch.context() as patch:
        patch.setattr(MPI, "COMM_WORLD", MPI.COMM_SELF)
        (tmp_path / "alone").mkdir()
        # 150 steps, each with the last places of its own norm
        np.testing.assert_allclose(run_program(0, tmp_path / "alone")["x"], x, rtol=1e-6)
    assert abs(x - np.sin(2e-4 * np.arange(x.size))).mean() < 0.1  # of noise of 0.2
    files = [shared_path / f"smooth.{rank}-of-{comm.size}.npz" for rank in range(comm.size)]
    np.testing.assert_array_equal(np.concatenate([na.load(file).params for file in files]), x)
    again = run_program(0, shared_path)  # goes on from its files: nothing is left to do
    assert "g" not in again
    assert again["opt"].t == 150
    np.testing.assert_array_equal(again["x"], found["x"])


def test_parameters_that_all_ranks_have_stay_the_same(comm, shared_path):
    found = run_program(1, shared_path)
    np.testing.assert_allclose(found["w"], [1, -2, 0.5], atol=1e-3)
    every = comm.allgather(found["w"].tobytes())
    assert every == [found["w"].tobytes()] * comm.size
    np.testing.assert_array_equal(na.load(shared_path / "fit.npz").params, found["w"])

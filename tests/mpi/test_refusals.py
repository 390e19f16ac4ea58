"""A rank that cannot take a step: nothing is written anywhere, and no rank waits for ever."""

from __future__ import annotations

import copy
import pickle
import signal
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import numadam as na
from numadam._mpi.ranks import ranks_of
from tests.mpi.twins import same_bits

RankError = na.mpi.RankError


def make(comm, **options):
    params = {"w": np.ones((4, 2)), "b": np.ones(3)}
    return na.Adam(params, comm=comm, **{"clip_norm": 1.0, **options})


def grads(value=1.0):
    return {"w": np.full((4, 2), value), "b": np.full(3, value)}


def wrong_shape(opt):
    opt.step({"w": np.ones((4, 3)), "b": np.ones(3)})


def wrong_dtype(opt):
    opt.step({"w": np.ones((4, 2), np.float32), "b": np.ones(3)})


def wrong_structure(opt):
    opt.step({"w": np.ones((4, 2))})


def read_only(opt):
    opt.params["b"].flags.writeable = False
    try:
        opt.step(grads())
    finally:
        opt.params["b"].flags.writeable = True


def overlap(opt):
    opt.step({"w": opt.params["w"], "b": np.ones(3)})


def no_gradients(opt):
    opt.step()


def negative_rate(opt):
    opt.step(grads(), lr=-1.0)


def schedule_that_raises(opt):
    opt.lr = lambda t: 1 / 0
    try:
        opt.step(grads())
    finally:
        opt.lr = 1e-3


def interrupted(opt):
    def pressed(t: int) -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.1

    opt.lr = pressed
    try:
        opt.step(grads())
    finally:
        opt.lr = 1e-3


CALLS = {
    wrong_shape: ValueError,
    wrong_dtype: TypeError,
    wrong_structure: ValueError,
    read_only: ValueError,
    overlap: ValueError,
    no_gradients: ValueError,
    negative_rate: ValueError,
    schedule_that_raises: ZeroDivisionError,
    interrupted: KeyboardInterrupt,
}


@pytest.mark.ranks(2)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("first", [True, False], ids=["first step", "later"])
def test_a_step_that_one_rank_refuses_is_taken_nowhere(comm, call, first):
    opt, sinner = make(comm), comm.size - 1
    if not first:
        opt.step(grads(2.0))
    before = copy.deepcopy((opt.params, opt.state.copy()))
    error = CALLS[call] if comm.rank == sinner else RankError
    says = f"step: rank {sinner} of {comm.size} failed. {CALLS[call].__name__}"
    with pytest.raises(error, match=None if comm.rank == sinner else says):
        (call if comm.rank == sinner else partial(type(opt).step, grads=grads()))(opt)
    assert same_bits(before, (opt.params, opt.state.copy()))
    twin = copy.deepcopy(opt)
    opt.step(grads())  # all go on
    twin.step(grads())
    assert same_bits(opt.params, twin.params)


class Unsaid(Exception):
    """An error without a text."""

    def __str__(self) -> str:
        raise RuntimeError


STRANGE = {
    "path that is no UTF-8": (OSError("caf\udce9"), "OSError: caf\\udce9"),
    "no text": (Unsaid(), "Unsaid: its text raised RuntimeError"),
    "long text": (ValueError("long" * 1000), "ValueError: longlong"),
}


@pytest.mark.ranks(2)
@pytest.mark.parametrize("case", STRANGE)
def test_an_error_reaches_the_others_whatever_its_text(comm, case):
    error, says = STRANGE[case]
    opt = make(comm)

    def schedule(t: int) -> float:
        raise error

    opt.lr = schedule if comm.rank == 0 else 1e-3
    with pytest.raises(type(error) if comm.rank == 0 else RankError) as caught:
        opt.step(grads())
    if comm.rank:
        assert says in str(caught.value)


@pytest.mark.ranks(2)
def test_a_name_with_surrogates_on_one_rank_is_refused_on_all(comm):
    name = "caf\udce9" if comm.rank else "cafe"
    with pytest.raises(RankError, match="names of params"):
        na.Adam({name: np.ones(2)}, comm=comm)


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


@pytest.mark.ranks(3)
def test_two_ranks_refuse_at_once(comm):
    opt = make(comm)
    error = {0: ValueError, 1: TypeError}.get(comm.rank, RankError)
    with pytest.raises(error, match="rank 0 of" if error is RankError else None):
        {0: wrong_shape, 1: wrong_dtype}.get(comm.rank, partial(na.Adam.step, grads=grads()))(opt)
    opt.step(grads())


@pytest.mark.ranks(2)
def test_a_flush_that_one_rank_refuses(comm):
    opt = make(comm, accumulate=3)
    opt.step(grads())
    before = copy.deepcopy((opt.params, opt.state.copy()))
    opt.lr = (lambda t: 1 / 0) if comm.rank == 0 else 1e-3
    with pytest.raises(RankError if comm.rank else ZeroDivisionError):
        opt.flush()
    assert same_bits(before, (opt.params, opt.state.copy()))
    opt.lr = 1e-3
    assert opt.flush()
    assert opt.t == 1


@pytest.mark.ranks(2)
def test_a_step_without_a_norm_is_refused_alone(comm):
    free, summed = make(comm, clip_norm=None), make(comm, accumulate=2)
    for opt in (free, summed):
        if comm.rank == 0:
            with pytest.raises(ValueError, match=r"grads\['w'\]: expected shape"):
                wrong_shape(opt)
            opt.step(grads())  # in time for the next one
        else:
            opt.step(grads())
    summed.step(grads())
    assert (free.t, summed.t) == (1, 1)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda opt: setattr(opt, "clip_norm", 2.0), "clip_norm: is 1 on rank 0 and 2 on rank"),
        (lambda opt: setattr(opt, "beta1", 0.5), "beta1: is 0.9 on rank 0 and 0.5 on rank"),
        (lambda opt: setattr(opt, "t", 7), "t: is 0 on rank 0 and 7 on rank"),
    ],
)
def test_ranks_that_are_not_alike(comm, change, says):
    opt, last = make(comm), comm.rank == comm.size - 1
    before = copy.deepcopy(opt.params)
    if last:
        change(opt)
    with pytest.raises(RankError, match=says):
        opt.step(grads())
    assert same_bits(before, opt.params)


@pytest.mark.ranks(2)
def test_a_mean_of_fewer_gradients_on_one_rank(comm):
    opt = make(comm, accumulate=3)
    for _ in range(1 + (comm.rank == 0)):
        opt.step(grads())
    with pytest.raises(RankError, match="calls: is 2 on rank 0 and 1 on rank 1"):
        opt.flush()
    assert opt.t == 0


def test_ctrl_c_in_a_step_comes_after_it(comm):
    """In the middle of the exchange: the step is whole on every rank, and then the signal."""
    opt, twin = make(comm), make(comm)
    last = comm.rank == comm.size - 1
    gather = opt._settings.exchange.gather

    def interrupted(*words: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return gather(*words)

    if last:
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


@pytest.mark.ranks(2)
def test_an_optimiser_is_made_on_all_ranks_or_on_none(comm):
    x = np.array([-3.0, 0.5])
    bounds = (0.0, 1.0) if comm.rank else (1.0, 0.0)
    with pytest.raises(RankError if comm.rank else ValueError, match="bounds: lo is above hi"):
        na.Adam(x, comm=comm, bounds=bounds)
    assert x[0] == -3.0  # not moved into its bounds
    x.flags.writeable = comm.rank == 0
    with pytest.raises(ValueError if comm.rank else RankError, match="read-only"):
        na.Adam(x, comm=comm, bounds=(0.0, 1.0))
    assert x[0] == -3.0


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("mine", "says"),
    [
        (lambda x: na.SGD(x), "rule: is adam on rank 0 and sgd on rank"),
        (lambda x: na.Adam([x, x.copy()]), "number of arrays: is 1 on rank 0 and 2 on rank"),
        (lambda x: na.Adam({"x": x}), "names of params: is params on rank 0 and params"),
        (lambda x: na.Adam(x.astype(np.float32)), "dtype: is float64 on rank 0 and float32"),
        (lambda x: na.Adam(x, lr=0.5), "lr: is 0.001 on rank 0 and 0.5 on rank"),
        (lambda x: na.Adam(x, clip_norm=1.0), "clip_norm: is None on rank 0 and 1.0 on rank"),
        (lambda x: na.Adam(x, beta2=0.5), "beta2: is 0.999 on rank 0 and 0.5 on rank"),
        (lambda x: na.Adam(x, groups={"": {"lr": 1.0}}), "groups: is None on rank 0 and {'': "),
        (lambda x: na.Adam(x, lr=lambda t: 0.1), "lr: is 0.001 on rank 0 and .*<lambda>"),
    ],
)
def test_other_arrays_or_options_on_one_rank(comm, monkeypatch, mine, says):
    usual, x = na.Optimizer._setup, np.ones(3)

    def with_comm(self, params, lr, shared, own):
        usual(self, params, lr, {**shared, "comm": comm}, own)

    monkeypatch.setattr(na.Optimizer, "_setup", with_comm)
    with pytest.raises(RankError, match=says):
        mine(x) if comm.rank == comm.size - 1 else na.Adam(x)


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


@pytest.mark.parametrize(
    ("offset", "says"),
    [
        ((0,), r"expected 2 whole numbers >= 0 for p/w, .* got \(0,\)"),
        ({"w": (0, -1), "b": (0,)}, r".* p/w, .* got \(0, -1\)"),
        ({"w": (0, 0), "b": (0.5,)}, r"expected 1 .* p/b, .* got \(0\.5,\)"),
        ({"w": (0, 0)}, "has nothing for p/b"),
        (7, "has nothing for p/w"),
    ],
)
def test_offsets_that_do_not_go_with_the_parameters(comm, offset, says):
    """Refused when the optimiser is made, not at the first save."""
    with pytest.raises(ValueError, match="^offset: " + says):
        make(na.mpi.Decomposition(comm, offset=offset))


@pytest.mark.parametrize(
    ("owned", "error", "says"),
    [
        (np.ones(3), TypeError, "owned: expected an array of bool, .* got float64 array"),
        (np.ones(2, bool), ValueError, r"owned: expected shape \(3,\) like params, got \(2,\)"),
        (True, TypeError, "owned: expected an array of bool, .* got bool"),
    ],
)
def test_masks_that_do_not_fit(comm, owned, error, says):
    with pytest.raises(error, match=says):
        na.Adam(np.ones(3), comm=na.mpi.Decomposition(comm, owned))


def test_pickle_and_freed_communicators(comm):
    own = comm.Dup()
    opt = na.Adam(np.ones(3), comm=own, clip_norm=1.0)
    with pytest.raises(TypeError, match="comm: a communicator cannot be pickled"):
        pickle.dumps(opt)
    assert ranks_of(own) is ranks_of(own)
    own.Free()
    with pytest.raises(ValueError, match="comm: was freed"):
        ranks_of_freed(opt)


def ranks_of_freed(opt):
    opt._settings.exchange._ranks.gather(np.zeros(1))


ALONE = """
import time
import numpy as np
from mpi4py import MPI
import numadam as na
from numadam._mpi import ranks

ranks.LEFT_ALONE = 1.0  # before it is read

comm = MPI.COMM_WORLD
opt = na.Adam(np.ones(3), comm=comm, clip_norm=1.0)
opt.step(np.ones(3))
if comm.rank == 0:
    opt.step(np.ones(4))
time.sleep(60)
"""


def test_a_rank_that_is_left_alone_ends_the_program(mpiexec, tmp_path):
    program = tmp_path / "alone.py"
    program.write_text(ALONE, encoding="utf-8")
    begin = time.monotonic()
    done = mpiexec(2, program)
    assert done.returncode != 0
    assert time.monotonic() - begin < 50
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("numadam:")]
    assert line.startswith("numadam: rank 0 of 2: step: the other ranks did not come. ValueError: ")

"""A rank that cannot take a step: nothing is written anywhere, and no rank waits for ever."""

from __future__ import annotations

import copy
import pickle
import signal
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import numadam as na
from numadam._mpi.ranks import ranks_of
from tests.mpi.problems import fails_on, same_bits

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


def wrong_dtype(opt):
    opt.step({"w": np.ones((4, 2), np.float32), "b": np.ones(3)})


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
    "dtype": (wrong_dtype, TypeError, ""),
    "structure": (lambda opt: opt.step({"w": np.ones((4, 2))}), ValueError, ""),
    "read-only": (read_only, ValueError, ""),
    "overlap": (lambda opt: opt.step({**grads(), "w": opt.params["w"]}), ValueError, ""),
    "no gradients": (lambda opt: opt.step(), ValueError, ""),
    "negative rate": (lambda opt: opt.step(grads(), lr=-1.0), ValueError, ""),
    "schedule": (with_rate(lambda t: 1 / 0), ZeroDivisionError, ""),
    "ctrl-c": (with_rate(interrupted), KeyboardInterrupt, ""),
    "no UTF-8": (with_rate(raising(OSError("caf\udce9"))), OSError, r": caf\\udce9"),
    "no text": (with_rate(raising(Unsaid())), Unsaid, ": its text raised RuntimeError"),
    "long text": (with_rate(raising(ValueError("long" * 1000))), ValueError, ": longlong"),
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


@pytest.mark.ranks(3)
def test_two_ranks_refuse_at_once(comm):
    opt = make(comm)
    call, error = {0: (wrong_shape, ValueError), 1: (wrong_dtype, TypeError)}.get(
        comm.rank, (lambda opt: opt.step(grads()), RankError)
    )
    with pytest.raises(error, match="rank 0 of" if error is RankError else None):
        call(opt)
    opt.step(grads())


@pytest.mark.ranks(2)
def test_a_flush_that_one_rank_refuses(comm):
    opt = make(comm, accumulate=3)
    opt.step(grads())
    before = picture(opt)
    opt.lr = (lambda t: 1 / 0) if comm.rank == 0 else 1e-3
    with fails_on(comm, 0, ZeroDivisionError):
        opt.flush()
    assert same_bits(before, (opt.params, opt.state.copy()))
    opt.lr = 1e-3
    assert opt.flush()
    assert opt.t == 1
    for _ in range(1 + (comm.rank == 0)):
        opt.step(grads())
    with pytest.raises(RankError, match="calls: is 2 on rank 0 and 1 on rank 1"):
        opt.flush()
    assert opt.t == 1


@pytest.mark.ranks(2)
def test_a_step_without_a_norm_is_refused_alone(comm):
    free, summed = make(comm, clip_norm=None), make(comm, accumulate=2)
    for opt in (free, summed):
        if comm.rank == 0:
            with pytest.raises(ValueError, match=r"grads\['w'\]: expected shape"):
                wrong_shape(opt)
        opt.step(grads())  # in time for the next one
    summed.step(grads())
    assert (free.t, summed.t) == (1, 1)


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


# --- ranks that are not alike ---------------------------------------------------------------------


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
        ({"params": {"caf\udce9": np.ones(3)}}, "names of params"),
        ({"params": np.ones(3, "f4")}, "dtype: is float64 on rank 0 and float32"),
        ({"lr": 0.5}, "lr: is 0.001 on rank 0 and 0.5 on rank"),
        ({"lr": lambda t: 0.1}, "lr: is 0.001 on rank 0 and .*<lambda>"),
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


@pytest.mark.parametrize(
    ("domain", "error", "says"),
    [
        ({"offset": (0,)}, ValueError, r"expected 2 whole numbers >= 0 for p/w, .* got \(0,\)"),
        ({"offset": {"w": (0, -1), "b": (0,)}}, ValueError, r".* p/w, .* got \(0, -1\)"),
        ({"offset": {"w": (0, 0), "b": (0.5,)}}, ValueError, r"expected 1 .* p/b, .* got \(0\.5,"),
        ({"offset": {"w": (0, 0)}}, ValueError, "has nothing for p/b"),
        ({"offset": 7}, ValueError, "has nothing for p/w"),
        (
            {"owned": {**grads(), "w": np.ones((4, 2), bool)}},
            TypeError,
            ".*bool, .* got float64 arr",
        ),
        (
            {"owned": {"w": np.ones((4, 2), bool), "b": np.ones(2, bool)}},
            ValueError,
            r"expected shape \(3,\) like params\['b'\], got \(2,\)",
        ),
        ({"owned": {"w": True, "b": True}}, TypeError, "expected an array of bool, .* got bool"),
    ],
)
def test_places_and_masks_that_do_not_go_with_the_parameters(comm, domain, error, says):
    """Refused when the optimiser is made, not at the first save."""
    (name,) = domain
    with pytest.raises(error, match=rf"^{name}.*: {says}"):
        make(na.mpi.Decomposition(comm, **domain))


def test_pickle_and_freed_communicators(comm):
    own = comm.Dup()
    opt = make(own)
    with pytest.raises(TypeError, match="comm: a communicator cannot be pickled"):
        pickle.dumps(opt)
    assert ranks_of(own) is ranks_of(own)
    own.Free()
    with pytest.raises(ValueError, match="comm: was freed"):
        opt._settings.exchange._ranks.gather(np.zeros(1))

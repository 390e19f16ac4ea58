"""`minimize` over blocks: the bits, the stops and the answers of one process; failing ranks."""

from __future__ import annotations

import os
import signal

import numba
import numpy as np
import pytest
from mpi4py import MPI

import numadam as na
from tests.mpi.problems import Chain, assert_alike, cut, fails_on

STOPS = {
    "gtol": {"gtol": 0.3},
    "gtol-rel": {"gtol_rel": 0.01},
    "ftol": {"gtol_rel": 0.0, "ftol": 1e-4},
    "xtol": {"gtol_rel": 0.0, "xtol": 1e-3},
    "maxiter": {"gtol_rel": 0.0, "maxiter": 17},
    "bounds": {"bounds": (0.0, 1.0), "gtol": 1e-3},
    "tested-now-and-then": {"gtol_rel": 0.01, "check_every": 7},
    "clip-norm": {"clip_norm": 2.0, "gtol_rel": 0.01},
    "schedules": {"lr": na.schedules.Cosine(0.2, 80), "beta1": lambda t: 0.9 - 0.001 * t},
    "own-schedule": {"lr": lambda t: 0.1 / (1 + t), "maxiter": 40},
    "plateau": {"lr": na.schedules.ReduceOnPlateau(0.3, patience=2), "maxiter": 60},
    "last-alone": {"track_best": False, "ema": 0.9, "maxiter": 30},
    "lion": {"rule": "lion", "lr": 0.02, "maxiter": 30},
}


@pytest.mark.parametrize("empty", [False, True], ids=["all-have-some", "one-has-none"])
@pytest.mark.parametrize("name", STOPS)
def test_blocks_have_the_bits_and_the_stop_of_one_process(comm, name, empty):
    chain, options = Chain(comm, empty=empty), {"maxiter": 200} | STOPS[name]
    alone = chain.alone(**options)
    chain.check(chain.run(**options), alone)


def test_float32_and_a_nesting(comm):
    chain = Chain(comm, dtype=np.float32)
    middle = chain.n // 2

    def whole(x):
        f, g = chain.whole(np.concatenate([x["a"].ravel(), x["b"]]))
        return f, {"a": g[:middle].reshape(-1, 1), "b": g[middle:]}

    start = {"a": chain.start[:middle].reshape(-1, 1), "b": chain.start[middle:]}
    parts = {"a": cut(comm, middle), "b": cut(comm, chain.n - middle, empty=True)}

    def fun(x):
        blocks = comm.allgather(x)
        f, g = whole({name: np.concatenate([block[name] for block in blocks]) for name in x})
        return f, {name: g[name][parts[name]] for name in g}

    options = {"jac": True, "lr": 0.1, "gtol_rel": 1e-3, "maxiter": 300, "xtol": 1e-5}
    alone = na.minimize(whole, start, **options)
    x0 = {name: start[name][parts[name]] for name in start}
    found = na.minimize(fun, x0, comm=comm, **options)
    for name, part in parts.items():
        np.testing.assert_array_equal(found.x[name], alone.x[name][part])
    assert (found.nit, found.grad_norm, found.fun) == (alone.nit, alone.grad_norm, alone.fun)


def test_the_euclidean_norm_is_that_of_the_whole_within_rounding(comm):
    chain = Chain(comm)
    options = {"norm": 2, "gtol": 0.5, "xtol": 1e-6, "maxiter": 300}
    found, alone = chain.run(**options), chain.alone(**options)
    assert found.nit == alone.nit < 300
    assert found.message == alone.message
    np.testing.assert_array_equal(found.x, alone.x[chain.part])
    ulps = np.spacing(alone.history["grad_norm"])
    assert np.all(abs(found.history["grad_norm"] - alone.history["grad_norm"]) <= 8 * ulps)
    assert_alike(comm, found)


# --- f ------------------------------------------------------------------------------------------


def test_shares_are_added_in_the_order_of_ranks(comm):
    chain, shares = Chain(comm, coupling=0.0), []

    def fun(x):
        f, g = chain.share(x)
        shares.append(f)
        return f, g

    found = chain.run(fun, f="local", maxiter=20)
    totals = np.zeros(len(shares))
    for of_rank in comm.allgather(shares):
        totals += of_rank
    np.testing.assert_array_equal(found.history["fun"], totals)
    alone = chain.alone(maxiter=20)
    np.testing.assert_array_equal(found.x, alone.x[chain.part])
    np.testing.assert_allclose(found.fun, alone.fun, rtol=1e-14)


@pytest.mark.ranks(2)
def test_f_of_rank_0_counts_where_rounding_differs(comm):
    chain = Chain(comm)

    def fun(x):
        f, g = chain.fun(x)
        return f * (1 + comm.rank * 1e-15), g

    chain.check(chain.run(fun, maxiter=30), chain.alone(maxiter=30))


@pytest.mark.ranks(2)
def test_shares_that_are_not_called_so_are_noticed(comm):
    chain = Chain(comm, coupling=0.0)
    with pytest.raises(ValueError, match=r"fun: returned .* on rank 0 and .* pass f='local'"):
        chain.run(chain.share)


@pytest.mark.parametrize("broken", ["f", "gradient"])
def test_what_is_not_finite_on_one_rank_ends_all(comm, broken):
    chain, calls = Chain(comm), []

    def fun(x):
        calls.append(None)
        f, g = chain.fun(x)
        if len(calls) == 6 and comm.rank == comm.size - 1:
            return (np.inf, g) if broken == "f" else (f, np.full_like(g, np.nan))
        return f, g

    found = chain.run(fun)
    assert (found.nit, found.status) == (5, 2 if broken == "f" else 3)
    assert_alike(comm, found)


def test_a_gradient_apart_and_f_where_a_callback_of_one_rank_reads_it(comm):
    chain, seen = Chain(comm), []

    def callback(intermediate_result):
        seen.append((intermediate_result.nit, intermediate_result.fun))

    options = {"maxiter": 12, "gtol_rel": 0.0}
    apart = {"jac": lambda x: chain.fun(x)[1], **options}
    found = chain.run(lambda x: chain.fun(x)[0], callback=None if comm.rank else callback, **apart)
    alone = chain.alone(**options)
    np.testing.assert_array_equal(found.x, alone.x[chain.part])
    if comm.rank == 0:
        assert seen == list(enumerate(alone.history["fun"].tolist()))[1:]
    without = chain.run(lambda x: chain.fun(x)[0], **apart)
    assert without.nfev == 1  # at the end
    assert (without.fun, without.nit) == (alone.fun_last, 12)


# --- ghost cells, state, history ----------------------------------------------------------------


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_ghost_cells_do_not_count(comm, norm):
    chain = Chain(comm)
    wide = slice(max(0, chain.part.start - 1), min(chain.n, chain.part.stop + 1))
    owned = np.zeros(wide.stop - wide.start, bool)
    owned[chain.part.start - wide.start : chain.part.stop - wide.start] = True

    def fun(x):
        f, g = chain.whole(np.concatenate(comm.allgather(x[owned])))
        g = g[wide]
        g[~owned] *= -1e3  # they are stepped by sign alone: any gradient will do
        return f, g

    options = {"gtol_rel": 1e-2, "xtol": 1e-5, "norm": norm, "maxiter": 300}
    alone, chain.x0 = chain.alone(**options), chain.start[wide]
    found = chain.run(fun, **options, comm=na.mpi.Decomposition(comm, owned))
    np.testing.assert_array_equal(found.x[owned], alone.x[chain.part])
    assert (found.nit, found.message) == (alone.nit, alone.message)
    np.testing.assert_allclose(found.grad_norm, alone.grad_norm, rtol=1e-15)


def test_a_run_goes_on_from_its_state(comm):
    chain = Chain(comm)
    whole = chain.run(gtol_rel=1e-3, maxiter=311)
    first = chain.run(gtol_rel=1e-3, maxiter=11)
    chain.x0 = first.x
    found = chain.run(gtol_rel=1e-3, maxiter=300, state=first.state)
    for name in ("x", "x_last"):
        np.testing.assert_array_equal(found[name], whole[name])
    for name in ("nit", "fun", "grad_norm", "message"):
        assert found[name] == whole[name]


@pytest.mark.ranks(2)
@pytest.mark.parametrize("apart", [False, True], ids=["", "in no file"])
def test_the_best_before_is_dropped_where_one_block_is_out_of_bounds(comm, shared_path, apart):
    """On all ranks, also where f, and with it another best, is not asked for until the end."""
    chain, fun = Chain(comm), None
    state = {**chain.run(maxiter=20).state, "fun": -1.0}  # better than all that comes
    options = {"bounds": (0.0, 5.0 if comm.rank else 0.1), "state": state, "maxiter": 3}
    if apart:
        fun, options["jac"] = (lambda x: chain.fun(x)[0]), (lambda x: chain.fun(x)[1])
        options |= {"checkpoint": shared_path / "run", "checkpoint_every": 1}
    found = chain.run(fun, **options)
    assert found.nit == 23
    assert found.fun > 0.0
    assert_alike(comm, found)


def test_what_one_rank_alone_asks_for(comm, capsys):
    """A history with the last rank, a bar and prints; rank 0 shows those."""
    chain, history, last = Chain(comm), na.History(every=5), comm.rank == comm.size - 1
    own = {"callback": history} if last else {}
    found, alone = chain.run(maxiter=23, **own), chain.alone(maxiter=23)
    assert found.nit == alone.nit
    if last:
        np.testing.assert_array_equal(history["t"], [0, 5, 10, 15, 20, 23])
        np.testing.assert_array_equal(history["f"], alone.history["fun"][[0, 5, 10, 15, 20, 23]])
    chain.run(maxiter=3, progress=True, disp=True)
    shown = capsys.readouterr()
    assert ("|g|=" in shown.err, "iterations: 3" in shown.out) == (comm.rank == 0,) * 2


def test_ranks_meet_once_at_each_tested_iterate(comm):
    class Counting(MPI.Intracomm):
        met = 0

        def Iallgather(self, *args):
            Counting.met += 1
            return super().Iallgather(*args)

    counting = Counting(comm.Dup())
    chain = Chain(comm, coupling=0.0)

    def meetings(**options):
        """Of 40 iterations."""
        counts = []
        for maxiter in (20, 60):
            before = Counting.met
            own = {"comm": counting, "f": "local", "gtol_rel": 0.0, "lr": 1e-3}
            chain.run(chain.share, **own | options, maxiter=maxiter)
            counts.append(Counting.met - before)
        return counts[1] - counts[0]

    assert meetings() == 40
    assert meetings(lr=na.schedules.Cosine(0.1, 60)) == 40
    assert meetings(check_every=10) == 4
    assert meetings(check_every=10, clip_norm=1.0) == 4 + 40
    assert meetings(callback=lambda x: None) == 80
    assert meetings(lr=lambda t: 0.1) == 80
    counting.Free()


# --- what is refused ----------------------------------------------------------------------------


def quadratic(x):
    return float(x @ x), 2 * x


@numba.njit
def compiled(x, g):
    return 0.0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"jac": None}, ValueError, "jac: finite differences"),
        ({"jac": "3-point"}, ValueError, "jac: finite differences"),
        ({"f": "own"}, ValueError, "f: expected 'global' or 'local', got 'own'"),
        ({"maxiter": -1}, ValueError, "maxiter"),
        ({"track_best": 3}, TypeError, "track_best"),
        ({"fun": compiled, "jac": None, "f": "global"}, TypeError, r"is compiled.*fun\.py_func"),
        ({"comm": None}, ValueError, "f: 'local' goes with comm"),
        ({"comm": 3}, TypeError, "comm: expected a communicator of mpi4py"),
    ],
)
def test_refused_on_all_ranks(comm, options, error, text):
    given = {"fun": quadratic, "x0": np.ones(3), "comm": comm, "jac": True, "f": "local", **options}
    with pytest.raises(error, match=text):
        na.minimize(**given)


def test_many_problems_are_not_for_ranks(comm):
    with pytest.raises(ValueError, match=r"comm: not for .* give each rank some"):
        na.minimize_many(quadratic, np.ones((3, 2)), comm=comm)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("maxiter", (5, 6), "is 5 on rank 0 and 6 on rank 1"),
        ("gtol", (1e-3, 1e-4), "is 0.001 on rank 0"),
        ("track_best", (None, True), "is None on rank 0 and True on rank 1"),
        ("check_every", (2, 1), "is 2 on rank 0"),
        ("f", ("global", "local"), "is 'global' on rank 0 and 'local' on rank 1"),
        ("history", (3, None), "is 3 on rank 0"),
        ("lr", (0.1, 0.2), "is 0.1 on rank 0"),
    ],
)
def test_arguments_that_differ_are_shown_as_they_were_passed(comm, name, values, says):
    options = {"f": "local", name: values[comm.rank == 1]}
    with pytest.raises((ValueError, na.mpi.RankError), match=f"{name}: {says}"):
        na.minimize(quadratic, np.ones(3), jac=True, comm=comm, **options)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("x0", "text"), ("state", 3), ("gtol", -1.0), ("callback", 5), ("bounds", (3, 1))],
)
def test_an_argument_of_one_rank_is_refused_on_all(comm, name, wrong):
    """Nothing has been evaluated, and no rank waits."""
    evaluated, own = [], comm.rank == comm.size - 1

    def fun(x):
        evaluated.append(None)
        return quadratic(x)

    options = {"x0": np.ones(3), "jac": True, "f": "local", "comm": comm, "maxiter": 2}
    with fails_on(comm, -1, (TypeError, ValueError)):
        na.minimize(fun, **(options | ({name: wrong} if own else {})))
    assert not evaluated
    assert na.minimize(fun, **options).nit == 2  # nothing is left over


# --- a rank that fails: its own error there, RankError on the others -----------------------------

AT = 6  # the iterate at which a rank fails


class Failing:
    """Calls that fail on the last rank, of a run in which each rank adds its share to f."""

    def __init__(self, comm, error):
        self.chain, self.error, self.calls = Chain(comm, coupling=0.0), error, 0
        self.comm, self.here = comm, comm.rank == comm.size - 1

    def at(self, moment):
        """Fail, if the moment is there."""
        if self.here and moment:
            if isinstance(self.error, KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            raise self.error

    def counted(self, work, at=AT):
        """A function whose call of this number fails."""

        def call(*args):
            self.at(self.calls == at)
            self.calls += 1
            return work(*args)

        return call

    def schedule(self, t):
        self.at(t == AT)
        return 0.1

    def run(self, fun=None, **options):
        options = {"f": "local", "gtol_rel": 0.0, "maxiter": 40} | options
        return self.chain.run(fun or self.chain.share, **options)

    def fails(self, **options):
        """The result so far."""
        with fails_on(self.comm, -1, type(self.error)) as caught:
            self.run(**options)
        if not self.here:
            sinner = f"rank {self.comm.size - 1} of {self.comm.size} failed. "
            assert sinner in str(caught.value)
            assert type(self.error).__name__ in str(caught.value)
        return caught.value.numadam_result


def history(failing):
    class Full(na.History):
        see = failing.counted(na.History.see)

    return Full()


def plateau(failing):
    class Plateau(na.schedules.ReduceOnPlateau):
        observe = failing.counted(na.schedules.ReduceOnPlateau.observe)

    return Plateau(0.1, patience=3)


#: What fails: options of the run.
CALLS = {
    "fun": lambda failing: {"fun": failing.counted(failing.chain.share)},
    "fun beside a callback": lambda failing: {
        "fun": failing.counted(failing.chain.share),
        "callback": lambda x: None,
    },
    "jac": lambda failing: {
        "fun": lambda x: failing.chain.share(x)[0],
        "jac": failing.counted(lambda x: failing.chain.share(x)[1]),
    },
    "callback": lambda failing: {"callback": failing.counted(lambda x: None, AT - 1)},
    "lr": lambda failing: {"lr": failing.schedule},
    "beta1": lambda failing: {"beta1": failing.schedule},
    "lr and beta1": lambda failing: {"lr": failing.schedule, "beta1": failing.schedule},
    "history": lambda failing: {"callback": history(failing)},
    "plateau": lambda failing: {"lr": plateau(failing)},
}


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}], ids=["", "norm"])
@pytest.mark.parametrize(
    ("call", "error"),
    [(call, ZeroDivisionError("no")) for call in CALLS]
    + [(call, KeyboardInterrupt()) for call in ("fun", "fun beside a callback", "callback")],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_call_of_one_rank_fails(comm, call, error, options, ctrl_c):
    failing = Failing(comm, error)
    found = failing.fails(**CALLS[call](failing), **options)
    assert (found.nit, found.status) == (AT, -1)
    assert_alike(comm, found)


@pytest.mark.parametrize("first", [0, 3])
def test_a_schedule_of_lr_that_is_refused(comm, first):
    failing = Failing(comm, ValueError("lr"))
    wrong = failing.fails(lr=lambda t: -1.0 if failing.here and t >= first else 0.1)
    assert wrong.nit == first


def test_between_two_tests_the_others_go_on_to_the_next(comm):
    for options, others in (({}, 10), ({"clip_norm": 1.0}, AT)):  # with a norm the steps meet
        failing = Failing(comm, ZeroDivisionError("no"))
        found = failing.fails(fun=failing.counted(failing.chain.share), check_every=5, **options)
        assert found.nit == (AT if failing.here else others)


@pytest.mark.parametrize("rank", [0, -1])
def test_stop_iteration_of_one_rank_ends_all(comm, rank):
    def callback(intermediate_result):
        if intermediate_result.nit == AT and comm.rank == rank % comm.size:
            raise StopIteration

    found = Failing(comm, None).run(callback=callback)
    assert (found.nit, found.status) == (AT, 99)
    assert found.message == "`callback` raised `StopIteration`."
    assert_alike(comm, found)


def test_all_ranks_fail_with_their_own_errors(comm):
    def fun(x):
        raise KeyError(comm.rank)

    with pytest.raises(KeyError, match=str(comm.rank)):
        Failing(comm, None).run(fun)

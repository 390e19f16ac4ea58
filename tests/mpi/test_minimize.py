"""`minimize` over blocks: the bits, the stops and the answers of one process."""

import numba
import numpy as np
import pytest

import numadam as na
from tests.mpi.blocks import Chain, assert_alike, assert_same_run, cut, run_both

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
}


@pytest.mark.parametrize("empty", [False, True], ids=["all-have-some", "one-has-none"])
@pytest.mark.parametrize("name", STOPS)
def test_blocks_have_the_bits_and_the_stop_of_one_process(comm, name, empty):
    options = {"lr": 0.1, "maxiter": 200} | STOPS[name]
    found, alone, part = run_both(comm, Chain(), empty, **options)
    assert_same_run(found, alone, part)
    assert_alike(comm, found)


def test_float32_and_a_nesting(comm):
    problem = Chain(dtype=np.float32)
    middle = problem.n // 2

    def whole(x):
        f, g = problem.whole(np.concatenate([x["a"].ravel(), x["b"]]))
        return f, {"a": g[:middle].reshape(-1, 1), "b": g[middle:]}

    start = {"a": problem.start[:middle].reshape(-1, 1), "b": problem.start[middle:]}
    cuts = {"a": cut(comm, middle), "b": cut(comm, problem.n - middle, empty=True)}

    def fun(x):
        parts = comm.allgather(x)
        f, g = whole({name: np.concatenate([one[name] for one in parts]) for name in x})
        return f, {name: g[name][cuts[name]] for name in g}

    options = {"jac": True, "lr": 0.1, "gtol_rel": 1e-3, "maxiter": 300, "xtol": 1e-5}
    alone = na.minimize(whole, start, **options)
    x0 = {name: start[name][cuts[name]] for name in start}
    found = na.minimize(fun, x0, comm=comm, **options)
    for name, part in cuts.items():
        np.testing.assert_array_equal(found.x[name], alone.x[name][part])
    assert (found.nit, found.grad_norm, found.fun) == (alone.nit, alone.grad_norm, alone.fun)


@pytest.mark.parametrize("rule", ["adamw", "sgd", "lion"])
def test_rules(comm, rule):
    found, alone, part = run_both(comm, Chain(), rule=rule, lr=0.02, maxiter=30)
    assert_same_run(found, alone, part)


def test_the_euclidean_norm_is_that_of_the_whole_within_rounding(comm):
    found, alone, part = run_both(comm, Chain(), norm=2, lr=0.1, maxiter=40, gtol=0.0)
    np.testing.assert_array_equal(found.x, alone.x[part])
    ulps = np.spacing(alone.history["grad_norm"])
    assert np.all(abs(found.history["grad_norm"] - alone.history["grad_norm"]) <= 8 * ulps)
    assert_alike(comm, found)


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_stops_by_the_euclidean_norm_at_the_same_iterate(comm, norm):
    options = {"norm": norm, "lr": 0.1, "gtol": 0.5, "xtol": 1e-6, "maxiter": 300}
    found, alone, _ = run_both(comm, Chain(), **options)
    assert found.nit == alone.nit < 300
    assert found.message == alone.message


# --- f ------------------------------------------------------------------------------------------


def test_shares_are_added_in_the_order_of_ranks(comm):
    problem = Chain(coupling=0.0)
    part, shares = cut(comm, problem.n), []
    target, weight = problem.target[part], problem.weight[part]

    def fun(x):
        shares.append(float(np.sum(weight * (x - target) ** 2)))
        return shares[-1], 2 * weight * (x - target)

    found = na.minimize(fun, problem.start[part], jac=True, comm=comm, f="local", maxiter=20)
    totals = []
    for one in zip(*comm.allgather(shares), strict=True):
        total = one[0]
        for share in one[1:]:
            total += share
        totals.append(total)
    np.testing.assert_array_equal(found.history["fun"], totals)
    whole = na.minimize(problem.whole, problem.start, jac=True, maxiter=20)
    np.testing.assert_array_equal(found.x, whole.x[part])
    np.testing.assert_allclose(found.fun, whole.fun, rtol=1e-14)


@pytest.mark.ranks(2)
def test_f_of_rank_0_counts_where_rounding_differs(comm):
    problem = Chain()
    part = cut(comm, problem.n)
    block = problem.block(comm, part)

    def fun(x):
        f, g = block(x)
        return f * (1 + comm.rank * 1e-15), g

    found = na.minimize(fun, problem.start[part], jac=True, comm=comm, maxiter=30)
    alone = na.minimize(problem.whole, problem.start, jac=True, maxiter=30)
    assert_same_run(found, alone, part)


@pytest.mark.ranks(2)
def test_shares_that_are_not_called_so_are_noticed(comm):
    problem = Chain(coupling=0.0)
    part = cut(comm, problem.n)
    target = problem.target[part]

    def fun(x):
        return float(np.sum((x - target) ** 2)), 2 * (x - target)

    with pytest.raises(ValueError, match=r"fun: returned .* on rank 0 and .* pass f='local'"):
        na.minimize(fun, problem.start[part], jac=True, comm=comm)


@pytest.mark.parametrize("broken", ["f", "gradient"])
def test_what_is_not_finite_on_one_rank_ends_all(comm, broken):
    problem, calls = Chain(), []
    part = cut(comm, problem.n)
    block = problem.block(comm, part)

    def fun(x):
        calls.append(None)
        f, g = block(x)
        if len(calls) == 6 and comm.rank == comm.size - 1:
            return (np.inf, g) if broken == "f" else (f, np.full_like(g, np.nan))
        return f, g

    found = na.minimize(fun, problem.start[part], jac=True, comm=comm)
    assert (found.nit, found.status) == (5, 2 if broken == "f" else 3)
    assert_alike(comm, found)


def test_a_gradient_apart_and_f_where_a_callback_of_one_rank_reads_it(comm):
    problem, seen = Chain(), []
    part = cut(comm, problem.n)
    block = problem.block(comm, part)

    def callback(intermediate_result):
        seen.append((intermediate_result.nit, intermediate_result.fun))

    options = {"lr": 0.1, "maxiter": 12, "gtol_rel": 0.0}

    def run(own):
        return na.minimize(
            lambda x: block(x)[0],
            problem.start[part],
            jac=lambda x: block(x)[1],
            comm=comm,
            callback=own,
            **options,
        )

    found = run(callback if comm.rank == 0 else None)
    alone = na.minimize(problem.whole, problem.start, jac=True, **options)
    np.testing.assert_array_equal(found.x, alone.x[part])
    if comm.rank == 0:
        known = dict(zip(alone.history["nit"].tolist(), alone.history["fun"].tolist(), strict=True))
        assert seen == [(nit, known[nit]) for nit in range(1, 13)]
    without = run(None)
    assert without.nfev == 1  # at the end
    assert (without.fun, without.nit) == (alone.fun_last, 12)


# --- ghost cells, state, history ----------------------------------------------------------------


def test_ghost_cells_do_not_count(comm):
    problem = Chain()
    part = cut(comm, problem.n)
    wide = slice(max(0, part.start - 1), min(problem.n, part.stop + 1))
    owned = np.zeros(wide.stop - wide.start, bool)
    owned[part.start - wide.start : part.stop - wide.start] = True

    def fun(x):
        f, g = problem.whole(np.concatenate(comm.allgather(x[owned])))
        g = g[wide]
        g[~owned] *= -1e3  # they are stepped by sign alone: any gradient will do
        return f, g

    block = na.mpi.Decomposition(comm, owned)
    for norm in (np.inf, 2):
        options = {"lr": 0.1, "gtol_rel": 1e-2, "xtol": 1e-5, "norm": norm, "maxiter": 300}
        alone = na.minimize(problem.whole, problem.start, jac=True, **options)
        found = na.minimize(fun, problem.start[wide], jac=True, comm=block, **options)
        np.testing.assert_array_equal(found.x[owned], alone.x[part])
        assert (found.nit, found.message) == (alone.nit, alone.message)
        np.testing.assert_allclose(found.grad_norm, alone.grad_norm, rtol=1e-15)


def test_a_run_goes_on_from_its_state(comm):
    problem = Chain()
    part = cut(comm, problem.n)
    fun, x0 = problem.block(comm, part), problem.start[part]
    options = {"jac": True, "lr": 0.1, "gtol_rel": 1e-3, "comm": comm}
    first = na.minimize(fun, x0, maxiter=11, **options)
    found = na.minimize(fun, first.x, state=first.state, maxiter=300, **options)
    whole = na.minimize(fun, x0, maxiter=311, **options)
    for name in ("x", "x_last"):
        np.testing.assert_array_equal(found[name], whole[name])
    for name in ("nit", "fun", "grad_norm", "message"):
        assert found[name] == whole[name]


@pytest.mark.ranks(2)
def test_the_best_iterate_before_is_dropped_on_all_ranks_where_one_block_is_out_of_bounds(comm):
    problem = Chain()
    part = cut(comm, problem.n)
    fun, x0 = problem.block(comm, part), problem.start[part]
    first = na.minimize(fun, x0, jac=True, comm=comm, lr=0.1, maxiter=20)
    state = {**first.state, "fun": -1.0}  # better than all that comes
    high = 0.1 if comm.rank == 0 else 5.0
    options = {"bounds": (0.0, high), "state": state, "maxiter": 3}
    found = na.minimize(fun, x0, jac=True, comm=comm, **options)
    assert found.fun > 0.0
    assert_alike(comm, found)


def test_a_history_may_be_kept_by_one_rank(comm):
    problem = Chain()
    part = cut(comm, problem.n)
    history = na.History(every=5)
    options = {"jac": True, "lr": 0.1, "maxiter": 23}
    own = {"callback": history} if comm.rank == comm.size - 1 else {}
    found = na.minimize(problem.block(comm, part), problem.start[part], comm=comm, **options, **own)
    alone = na.minimize(problem.whole, problem.start, **options)
    assert found.nit == alone.nit
    if own:
        np.testing.assert_array_equal(history["t"], [0, 5, 10, 15, 20, 23])
        np.testing.assert_array_equal(history["f"], alone.history["fun"][[0, 5, 10, 15, 20, 23]])


def test_one_rank_shows_a_bar_and_prints(comm, capsys):
    problem = Chain()
    part = cut(comm, problem.n)
    fun, x0 = problem.block(comm, part), problem.start[part]
    na.minimize(fun, x0, jac=True, comm=comm, maxiter=3, progress=True, disp=True)
    shown = capsys.readouterr()
    assert ("|g|=" in shown.err, "iterations: 3" in shown.out) == (comm.rank == 0,) * 2


# --- meetings -----------------------------------------------------------------------------------


def test_ranks_meet_once_at_each_tested_iterate(comm):
    from mpi4py import MPI

    class Counting(MPI.Intracomm):
        met = 0

        def Iallgather(self, *args):
            Counting.met += 1
            return super().Iallgather(*args)

    counting = Counting(comm.Dup())
    problem = Chain(coupling=0.0)
    part = cut(comm, problem.n)
    target = problem.target[part]

    def fun(x):
        return float(np.sum((x - target) ** 2)), 2 * (x - target)

    def meetings(**options):
        counts = []
        for maxiter in (20, 60):
            before = Counting.met
            na.minimize(
                fun,
                problem.start[part],
                jac=True,
                comm=counting,
                f="local",
                gtol_rel=0.0,
                maxiter=maxiter,
                **options,
            )
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


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"jac": None}, ValueError, "jac: finite differences"),
        ({"jac": "3-point"}, ValueError, "jac: finite differences"),
        ({"f": "own"}, ValueError, "f: expected 'global' or 'local', got 'own'"),
        ({"maxiter": -1}, ValueError, "maxiter"),
        ({"track_best": 3}, TypeError, "track_best"),
    ],
)
def test_refused_on_all_ranks(comm, options, error, text):
    with pytest.raises(error, match=text):
        na.minimize(quadratic, np.ones(3), comm=comm, **{"jac": True, "f": "local", **options})


def test_a_compiled_function_is_refused(comm):
    @numba.njit
    def fun(x, g):
        return 0.0

    with pytest.raises(TypeError, match=r"fun: is compiled.*fun\.py_func"):
        na.minimize(fun, np.ones(3), comm=comm)


def test_what_goes_with_comm_alone(comm):
    with pytest.raises(ValueError, match="f: 'local' goes with comm"):
        na.minimize(quadratic, np.ones(3), jac=True, f="local")
    with pytest.raises(ValueError, match=r"comm: not for .* give each rank some"):
        na.minimize_many(quadratic, np.ones((3, 2)), comm=comm)
    with pytest.raises(TypeError, match="comm: expected a communicator of mpi4py"):
        na.minimize(quadratic, np.ones(3), jac=True, comm=3)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    "options",
    [
        [{"maxiter": 5}, {"maxiter": 6}],
        [{"gtol": 1e-3}, {"gtol": 1e-4}],
        [{"track_best": None}, {"track_best": True}],
        [{"check_every": 2}, {}],
        [{"f": "local"}, {"f": "global"}],
        [{"history": 3}, {}],
        [{"lr": 0.1}, {"lr": 0.2}],
    ],
    ids=lambda pair: next(iter(pair[0])),
)
def test_a_run_that_is_not_the_same_on_all_ranks_is_refused(comm, options):
    own = {"f": "local", **options[comm.rank == 1]}
    name = next(iter(options[0]))
    with pytest.raises((ValueError, na.mpi.RankError), match=f"{name}: is .* on rank 0"):
        na.minimize(quadratic, np.ones(3), jac=True, comm=comm, **own)

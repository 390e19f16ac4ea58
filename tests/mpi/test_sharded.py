"""Replicated or shared parameters with sharded state: the bits of one process."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import optree
import pytest
from mpi4py import MPI

import numadam as na
from numadam._mpi import steps
from tests.mpi.problems import fails_on

SHAPES = {
    "one": (1000,),
    "few": [(700,), (3, 5), (), (0,), (2, 300)],
    "tiny": (3,),
    "two": (2,),
    "many": [(5, 7)] * 12,
    "long": [(40_000,), (7,), (3, 30_000), (11,), (50_000,)],  # messages of their own
    "nested": {"a": {"w": (9, 30), "b": (17,)}, "z": [(130,), (1,)]},
}
STEPS = 3


def each(function, tree, *more):
    """Call a function of the leaves (shapes or arrays) of several nestings."""
    return optree.tree_map(function, tree, *more, is_leaf=lambda leaf: isinstance(leaf, tuple))


leaves = optree.tree_leaves  # without None, where an array is frozen


def start(shape, dtype):
    x = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    return np.asarray(x + (0.5j * x if np.dtype(dtype).kind == "c" else 0)).astype(dtype)


def starts(shapes, dtype):
    return each(lambda shape: start(shape, dtype), shapes)


def gradients(shapes, dtype, step, rank):
    rng = np.random.default_rng([step, rank])

    def gradient(shape):
        g = rng.standard_normal(shape)
        if np.dtype(dtype).kind == "c":
            g = g + 1j * rng.standard_normal(shape)
        return np.asarray(g).astype(dtype)

    return each(gradient, shapes)


def added(trees):
    total = trees[0]
    for tree in trees[1:]:
        total = each(np.add, total, tree)
    return each(np.asarray, total)


def as_type(tree, dtype):
    return each(lambda g: np.asarray(g).astype(dtype), tree)


class Nodes:
    """How the ranks of a run form nodes: `groups` are the ranks of each."""

    def __init__(self, comm, kind):
        self.comm, self.kind, ranks = comm, kind, list(range(comm.size))
        half = comm.size // 2
        self.groups = {
            "plain": [[rank] for rank in ranks],
            "shared": [ranks],
            "pairs": [[0, 1], [2, 3]],  # of neighbours, or of ranks that lie apart
            "apart": [[0, half], [1, half + 1]],
        }[kind]
        own = next(k for k, group in enumerate(self.groups) if comm.rank in group)
        self.local = comm if kind == "shared" else comm.Split(own, comm.rank)

    def params(self, shapes, dtype="f4"):
        values = starts(shapes, dtype)
        if self.kind == "plain":
            return values
        arrays = each(lambda x: na.mpi.shared_array(self.local, x.shape, dtype), values)
        if self.local.rank == 0:
            each(np.copyto, arrays, values)
        self.comm.Barrier()
        return arrays

    def gradients(self, shapes, dtype, step):
        """Those of this rank."""
        return gradients(shapes, dtype, step, self.comm.rank)

    def sum(self, shapes, dtype, step):
        """The gradients of all ranks, added up in the order that is documented."""
        exact = "f4" if dtype == "f2" else dtype
        of_nodes = []
        for group in self.groups:
            parts = [as_type(gradients(shapes, dtype, step, rank), exact) for rank in group]
            total = added(parts)
            if 1 < len(group) < self.comm.size:  # messages between nodes are of the dtype
                total = as_type(as_type(total, dtype), exact)
            of_nodes.append(total)
        return as_type(added(of_nodes), dtype)


@pytest.fixture(params=["plain", "shared", "pairs", "apart"])
def nodes(comm, request):
    if request.param in ("pairs", "apart") and comm.size != 4:
        pytest.skip("two nodes of two ranks: mpiexec -n 4")
    return Nodes(comm, request.param)


def divided(g, divisor):
    """By parts: NumPy multiplies complex numbers by the reciprocal, which rounds once more."""
    mean = np.empty_like(g)
    mean.real = g.real / g.real.dtype.type(divisor)
    if g.dtype.kind == "c":
        mean.imag = g.imag / g.real.dtype.type(divisor)
    return mean


def check(nodes, shapes="few", dtype="f4", kind=na.Adam, own=False, more=None, **options):
    """Steps of all ranks have the bits of one process; the optimiser of all ranks."""
    shapes, more = SHAPES[shapes], more or {}
    divisor = nodes.comm.size if more.get("reduce") == "mean" else 1
    whole = kind(starts(shapes, dtype), **options)
    opt = na.mpi.Sharded(kind, nodes.params(shapes, dtype), nodes.comm, **more, **options)
    for step in range(STEPS):
        total = nodes.sum(shapes, dtype, step)
        whole.step(each(lambda g: divided(g, divisor), total))
        grads = nodes.gradients(shapes, dtype, step)
        if own:
            each(np.copyto, opt.grads, grads)
            opt.step()
        else:
            opt.step(grads)
    check_same(opt, whole)
    if {"clip_norm", "clip_array_norm", "nonfinite"} & options.keys():
        assert opt.grad_norm == whole.grad_norm
    opt.check_equal()
    return opt


def check_same(opt, whole):
    """All ranks have the parameters of one process, and their parts are its state."""
    assert opt.t == whole.t
    for ours, theirs in zip(leaves(opt.params), leaves(whole.params), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    pairs = [(opt.state[name], whole.state[name]) for name in whole._backend.state]
    if whole.ema is not None:
        pairs.append((opt.averaged, whole.averaged))
    for ours, theirs in pairs:
        triples = zip(leaves(ours), leaves(theirs), opt._place.parts, strict=True)
        for part, array, (low, high) in triples:
            assert part.tobytes() == array.reshape(-1)[low:high].tobytes()


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize(("own", "bucket"), [(False, 256), (True, 8 * 2**20)], ids=str)
def test_a_step_has_the_bits_of_one_process(nodes, shapes, own, bucket):
    check(nodes, shapes, own=own, lr=0.1, more={"bucket_bytes": bucket})


RNG = np.random.default_rng(1)
LOW = each(lambda shape: RNG.uniform(-1, 0.2, shape), SHAPES["nested"])
RATES = each(lambda shape: RNG.uniform(0, 0.3, shape), SHAPES["nested"])
RATES["z"][1] = 0.25
FROZEN = {"a.b": {"frozen": True}}
#: Bounds that differ from array to array: ranks then differ in rows of the control block.
MIXED = {"a": {"w": (-0.25, 0.5), "b": (np.full(17, -0.3), np.inf)}, "z": [None, None]}
NEST = {"a": {"w": (-0.25, 0.5)}, "z": [(-0.25, 0.5), None]}
GROUPS = {**FROZEN, "z": {"lr": 0.2, "weight_decay": 0.1}, "*.w": {"lr": 0.05}}
LONG_GROUPS = {"0": {"frozen": True}, "2": {"lr": 0.5, "weight_decay": 0.1}}
CHUNKS = {"bucket_bytes": 40_000}


#: Arguments of `check`: class, shapes, dtype, of Sharded alone, and the options.
CASES = {
    "norm": {"dtype": "f8", "clip_norm": 1.0, "more": {"bucket_bytes": 999}},
    "norm-tiny": {"shapes": "tiny", "dtype": "f8", "clip_norm": 1.0},
    "norm-mean": {"dtype": "f8", "clip_norm": 1.0, "more": {"reduce": "mean"}},
    "norm-of-each-guarded": {"clip_array_norm": 0.5, "nonfinite": "skip", "weight_decay": 0.1},
    "mean": {"more": {"reduce": "mean"}},
    "complex-mean": {"dtype": "c8", "more": {"bucket_bytes": 999, "reduce": "mean"}},
    "average": {"ema": 0.9, "amsgrad": True, "beta1": na.schedules.Polynomial(0.9, 5, end=0.8)},
    "boxes-and-rates": {
        "shapes": "nested",
        "bounds": each(lambda a: (a, a + 0.5), LOW),
        "lr": RATES,
    },
    "pair-and-frozen": {"shapes": "nested", "bounds": (-0.25, 0.5), "groups": FROZEN, "lr": 0.1},
    "pair-and-boxes": {"shapes": "nested", "bounds": MIXED, "lr": 0.1},
    "nest-and-frozen": {"shapes": "nested", "bounds": NEST, "groups": FROZEN, "lr": 0.1},
    "groups": {"kind": na.AdamW, "shapes": "nested", "groups": GROUPS},
    # stepped chunk by chunk, where each element needs nothing but its own
    "long-schedule": {
        "kind": na.AdamW,
        "clip_value": 0.5,
        "maximize": True,
        "lr": lambda t: 0.1 / (1 + t),
    },
    "long-groups": {"groups": LONG_GROUPS},
    "long-box": {"dtype": "f8", "bounds": (-0.9, 0.8), "amsgrad": True},
    "long-modulus": {"dtype": "c8", "complex_form": "modulus", "weight_decay": lambda t: 0.1 * t},
    "long-centered": {"kind": na.RMSprop, "dtype": "c8", "centered": True, "momentum": 0.9},
    "long-sgd": {"kind": na.SGD, "dtype": "f8", "lr": 0.1},
    "long-nadam": {"kind": na.NAdam, "lr": 0.1},  # not by chunks: of products of all steps
}


@pytest.mark.ranks(2)  # one rank steps as an optimiser without others does
@pytest.mark.parametrize("case", CASES)
def test_options_and_dtypes(nodes, case):
    given = CASES[case]
    if case.startswith("long"):
        given = {"shapes": "long", "more": CHUNKS, **given}
    opt = check(nodes, **given)
    if case.startswith("long"):
        assert opt._steps._chunked == (case != "long-nadam")
    if case == "groups":
        assert opt.grads["a"]["b"] is None
        assert np.array_equal(opt.params["a"]["b"], start((17,), "f4"))
    if case == "boxes-and-rates":
        for ours, low in zip(leaves(opt.params), leaves(LOW), strict=True):
            assert (ours >= np.float32(low) - 1e-6).all()


def test_pieces_that_lie_too_far_apart_for_mpi_are_copied(nodes, monkeypatch):
    monkeypatch.setattr(steps, "_REACH", 1000)
    check(nodes, "long", own=True, more=CHUNKS)


def test_two_elements_with_bounds_of_their_own(nodes):
    low = np.array([-0.5, 0.1])
    for bounds in ([(-0.5, None), (0.1, 2.0)], [(-0.5, 1.0), (0.1, 1.0)]):
        opt = check(nodes, "two", bounds=bounds, lr=0.5)
        assert (opt.params >= np.float32(low) - 1e-7).all()


def test_a_hyperparameter_counts_from_the_next_step_on(nodes):
    """And a learning rate for one step."""
    shapes = SHAPES["long"]
    opt = na.mpi.Sharded(na.Adam, nodes.params(shapes), nodes.comm, lr=0.1)
    whole = na.Adam(starts(shapes, "f4"), lr=0.1)
    for step, (beta, lr) in enumerate([(0.9, None), (0.5, 0.05)]):
        opt.beta1 = whole.beta1 = beta
        opt.step(nodes.gradients(shapes, "f4", step), lr=lr)
        whole.step(nodes.sum(shapes, "f4", step), lr=lr)
    with pytest.raises((ValueError, na.mpi.RankError), match="lr: "):
        opt.step(nodes.gradients(shapes, "f4", 0), lr=-1.0)
    check_same(opt, whole)


def test_reset(nodes):
    shapes = SHAPES["few"]
    whole = na.Adam(starts(shapes, "f4"))
    opt = na.mpi.Sharded(na.Adam, nodes.params(shapes), nodes.comm)
    for step in range(3):
        whole.step(nodes.sum(shapes, "f4", step))
        opt.step(nodes.gradients(shapes, "f4", step))
    check_same(opt, whole)
    kept = opt.state.copy()
    assert opt.reset() is None
    assert opt.t == 0
    assert not any(leaf.any() for leaf in leaves(opt.state["m"]))
    opt.state = kept
    check_same(opt, whole)


@pytest.mark.ranks(2)
def test_what_one_rank_cannot_do_none_does(nodes):
    params = [nodes.params((300,)), nodes.params((20,))]
    opt = na.mpi.Sharded(na.Adam, params, nodes.comm)
    opt.step([np.ones(300, "f4"), np.ones(20, "f4")])
    before, kept = opt.state.copy(), params[0]
    if nodes.comm.rank == 1:
        params[0] = params[0].copy()
    with fails_on(nodes.comm, 1, ValueError, r"params\[0\]: was replaced"):
        opt.reset()
    params[0] = kept
    assert opt.t == 1
    assert opt.state["m"][0].tobytes() == before["m"][0].tobytes()
    opt.reset()
    assert opt.t == 0
    opt.check_equal()


def test_a_guard_skips_and_raises_on_all_ranks(nodes):
    shapes = SHAPES["few"]
    params, bad = nodes.params(shapes), nodes.gradients(shapes, "f4", 0)
    before = copy.deepcopy(params)
    if nodes.comm.rank == nodes.comm.size - 1:
        bad[0][3] = np.nan
    opt = na.mpi.Sharded(na.Adam, params, nodes.comm, nonfinite="skip")
    opt.step(bad)
    assert (opt.t, opt.skipped) == (0, 1)
    opt = na.mpi.Sharded(na.Adam, params, nodes.comm, nonfinite="raise")
    with pytest.raises(FloatingPointError, match="grads: hold NaN"):
        opt.step(bad)
    assert opt.t == 0
    each(np.testing.assert_array_equal, params, before)
    opt.step(nodes.gradients(shapes, "f4", 0))
    assert opt.t == 1


def test_an_exit_in_a_schedule_reaches_all_ranks(comm):
    def leave(t):
        raise SystemExit(3) if comm.rank == 0 else AssertionError

    opt = na.mpi.Sharded(na.SGD, np.ones(5), comm)
    if comm.rank == 0:
        opt.lr = leave
    with fails_on(comm, 0, SystemExit):
        opt.step(np.ones(5))


# --- gradients ----------------------------------------------------------------------------------


def test_gradients_of_other_memory_orders_and_numbers(comm):
    x = np.zeros((40, 50))
    opt = na.mpi.Sharded(na.SGD, x, comm, lr=0.5)
    read_only = np.full((40, 50), 1.0 + comm.rank)
    read_only.flags.writeable = False
    for g in (np.asfortranarray(read_only), read_only[::-1], read_only):
        opt.step(g)
    total = 0.5 * sum(range(1, comm.size + 1))
    assert (x == -3 * total).all()
    number = np.array(1.0)
    na.mpi.Sharded(na.SGD, number, comm, lr=0.5).step(1.0 + comm.rank)
    assert number == 1.0 - total


@pytest.mark.parametrize(
    ("grads", "error", "text"),
    [
        (lambda x: np.zeros(7), ValueError, r"grads: expected shape \(500,\)"),
        (lambda x: np.zeros(500, "f4"), TypeError, "grads: expected float64 like params, got f"),
        (lambda x: [1.0] * 500, TypeError, "grads: expected a NumPy array, got list"),
        (lambda x: None, ValueError, "grads: none were passed"),
        (lambda x: x, ValueError, "grads shares memory with params"),
    ],
    ids=["shape", "dtype", "list", "none", "overlap"],
)
def test_a_refusal_on_one_rank_is_one_on_all(comm, grads, error, text):
    x = np.ones(500)
    opt = na.mpi.Sharded(na.SGD, x, comm)
    last = comm.rank == comm.size - 1
    given = grads(x) if last else np.ones(500)
    with fails_on(comm, -1, error, text) as caught:
        opt.step(given)
    if not last:
        assert f"rank {comm.size - 1} of {comm.size} failed" in str(caught.value)
    assert opt.t == 0
    assert (x == 1).all()
    opt.step(np.ones(500))
    assert opt.t == 1


def test_replaced_arrays_are_refused(comm):
    params = [np.ones(5), np.ones(6)]
    opt = na.mpi.Sharded(na.SGD, params, comm)
    opt.grads[1] = np.ones(6)
    with pytest.raises((ValueError, na.mpi.RankError), match=r"opt.grads\[1\]: was replaced"):
        opt.step()
    params[0] = np.ones(5)
    with pytest.raises((ValueError, na.mpi.RankError), match=r"params\[0\]: was replaced"):
        opt.step([np.ones(5), np.ones(6)])


# --- what has to be the same --------------------------------------------------------------------


@pytest.mark.ranks(2)
def test_parameters_that_differ_are_noticed(comm):
    params = [np.ones(5), np.ones(6)]
    opt = na.mpi.Sharded(na.SGD, params, comm)
    opt.check_equal()
    params[1][3] += comm.rank == 1
    says = r"params\[1\]: differs between rank 0 and rank 1"
    with pytest.raises(na.mpi.RankError, match=says):
        opt.check_equal()
    with pytest.raises(na.mpi.RankError, match=says):
        na.mpi.Sharded(na.SGD, params, comm)


RAMP = np.linspace(0.1, 1, 6)


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("argument", "values", "text"),
    [
        ("params", (np.ones(5), np.ones(6)), ""),
        ("params", (np.ones(6, "f4"), np.ones(6)), ""),
        ("params", ([np.ones(6)], np.ones(6)), ""),
        ("kind", (na.SGD, na.Adam), ""),
        ("reduce", ("mean", "sum"), ""),
        ("lr", (RAMP, np.append(RAMP[:-1], 2.0)), "Sharded: lr or bounds "),
        ("bounds", ((RAMP - 5, None), (RAMP - 4, None)), "Sharded: lr or bounds "),
    ],
)
def test_other_arguments_on_one_rank_are_refused(comm, argument, values, text):
    given = {"kind": na.Adam, "params": np.ones(6), argument: values[comm.rank == 1]}
    with pytest.raises(na.mpi.RankError, match=f"{text}.*differ between rank 0 and rank 1"):
        na.mpi.Sharded(given.pop("kind"), given.pop("params"), comm, **given)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("name", ["lr", "t", "clip_value"])
def test_another_lr_on_one_rank_is_refused(comm, name):
    x = np.ones(300)
    opt = na.mpi.Sharded(na.SGD, x, comm, clip_value=5.0)
    if comm.rank == 0:
        setattr(opt, name, 3)
    with pytest.raises(na.mpi.RankError, match="t, lr or a hyperparameter of rank 1"):
        opt.step(np.ones(300))
    assert (x == 1).all()
    setattr(opt, name, 3)
    opt.step(np.ones(300))


@pytest.mark.ranks(2)
def test_a_schedule_of_a_group_that_differs_is_noticed(comm):
    groups = {"1": {"lr": lambda t: 0.1 + 0.1 * comm.rank}}
    opt = na.mpi.Sharded(na.SGD, [np.ones(5), np.ones(7)], comm, groups=groups)
    with pytest.raises(na.mpi.RankError, match="t, lr or a hyperparameter of rank 1"):
        opt.step([np.ones(5), np.ones(7)])


# --- arguments ----------------------------------------------------------------------------------


def read_only(x):
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kind": 5}, TypeError, "kind: expected a class such as numadam.Adam"),
        ({"params": np.zeros((3, 4)).T}, ValueError, "params: expected an array in C order"),
        ({"params": [np.zeros(3), 5.0]}, TypeError, r"params\[1\]: expected a NumPy array"),
        ({"params": []}, ValueError, "params: holds no array"),
        ({"params": read_only(np.zeros(4))}, ValueError, "params: is read-only"),
        ({"reduce": "max"}, ValueError, "reduce: expected 'sum' or 'mean'"),
        ({"bucket_bytes": 0}, ValueError, "bucket_bytes: expected a whole number"),
        ({"sparse": "lazy"}, ValueError, "sparse: the gradients of all ranks"),
        ({"count": "row"}, ValueError, "count: needs the option sparse"),
        ({"lr": -1.0}, ValueError, "lr: "),
        ({"beta7": 1.0}, TypeError, "no option 'beta7'"),
        ({"groups": {"*": {"lr": np.ones(4)}}}, ValueError, "groups: an lr of arrays"),
        ({"groups": {"*": {"frozen": True}}}, ValueError, "groups: every array is frozen"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_are_refused_on_all_ranks(comm, change, error, text):
    given = {"kind": na.Adam, "params": [np.zeros(4)]} | change
    with pytest.raises(error, match=text):
        na.mpi.Sharded(given.pop("kind"), given.pop("params"), comm, **given)


@pytest.mark.ranks(2)
def test_shared_parameters_of_other_ranks_are_refused(comm):
    alone, x = comm.Split(comm.rank, 0), na.mpi.shared_array(comm, 5)
    with pytest.raises(ValueError, match=r"params\[1\]: is a plain array, but params\[0\]"):
        na.mpi.Sharded(na.Adam, [x, np.zeros(5)], comm)
    with pytest.raises(ValueError, match="of other ranks than those of comm"):
        na.mpi.Sharded(na.Adam, x, alone)
    if comm.size > 2:
        part = comm.Split(0 if comm.rank == 0 else 1, comm.rank)
        with pytest.raises(ValueError, match="comm: expected equally many ranks on each node"):
            na.mpi.Sharded(na.Adam, na.mpi.shared_array(part, 5), comm)


# --- the object ---------------------------------------------------------------------------------


def test_attributes_are_those_of_the_class(comm):
    opt = na.mpi.Sharded(na.Adam, np.ones(100), comm, lr=0.5, beta1=0.8)
    assert (opt.lr, opt.beta1, opt.amsgrad) == (0.5, 0.8, False)
    text = f"Sharded(Adam(lr=0.5), rank {comm.rank} of {comm.size}, {comm.size} x 1, "
    assert repr(opt) == text + "t=0; 1 array, 100 float64, cpu)"
    opt.lr, opt.beta1 = 0.25, 0.7
    assert (opt.shard.lr, opt.shard.beta1) == (0.25, 0.7)
    with pytest.raises(AttributeError, match="amsgrad: cannot be changed"):
        opt.amsgrad = True
    with pytest.raises(AttributeError, match="no attribute 'snapshot'"):
        opt.snapshot()
    with pytest.raises(AttributeError, match="no attribute 'beta3' to set"):
        opt.beta3 = 1
    assert {"beta1", "step", "shard"} <= set(dir(opt))
    for name in ("grad_norm", "averaged"):  # they need an option
        with pytest.raises(AttributeError) as alone:
            getattr(opt.shard, name)
        with pytest.raises(AttributeError) as caught:
            getattr(opt, name)
        assert str(caught.value) == str(alone.value)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Sharded: its parts lie on several ranks"):
            way(opt)


def test_the_state_is_shared_out(comm):
    opt = na.mpi.Sharded(na.Adam, np.ones(100_000), comm)
    sizes = comm.allgather(opt.state["m"].size)
    assert sum(sizes) == 100_000
    assert max(sizes) - min(sizes) <= 128
    assert (opt.rank, opt.ranks, opt.nodes) == (comm.rank, comm.size, comm.size)


def test_messages_are_the_least_that_is_needed(comm):
    """Bytes that a rank sends: 2 (N - 1) / N of its parameters, and a few words."""

    class Counting(MPI.Intracomm):
        sent = 0

        def Ialltoallv(self, sendbuf, recvbuf):
            Counting.sent += sum(sendbuf[1])
            return super().Ialltoallv(sendbuf, recvbuf)

        def Iallgatherv(self, sendbuf, recvbuf):
            assert sendbuf is MPI.IN_PLACE
            Counting.sent += (self.size - 1) * recvbuf[1][self.rank]
            return super().Iallgatherv(sendbuf, recvbuf)

    n = 64 * 3 * 4 * 100
    opt = na.mpi.Sharded(na.Adam, np.ones(n, "f4"), Counting(comm.Dup()), bucket_bytes=5000)
    opt.step(np.ones(n, "f4"))
    assert Counting.sent == 2 * (comm.size - 1) * 4 * n // comm.size


def test_a_step_that_breaks_is_noted(comm, monkeypatch):
    opt = na.mpi.Sharded(na.Adam, np.ones(1000), comm, clip_norm=1.0)

    def broken(*_, **__):
        raise MPI.Exception(MPI.ERR_INTERN)

    with monkeypatch.context() as patch:
        patch.setattr(opt._steps._collectives, "sums", broken)
        patch.setattr(opt._shard, "step", broken) if comm.size == 1 else None
        with pytest.raises(MPI.Exception):
            opt.step(np.ones(1000))
    with pytest.raises(RuntimeError, match="Sharded: a step was cut short"):
        opt.step(np.ones(1000))

"""Replicated or shared parameters with sharded state: the bits of one process."""

import copy
import pickle

import numpy as np
import pytest
from mpi4py import MPI

import numadam as na
from numadam._mpi import steps

SHAPES = {
    "one": (1000,),
    "few": [(700,), (3, 5), (), (0,), (2, 300)],
    "tiny": (3,),
    "many": [(5, 7)] * 12,
    "long": [(40_000,), (7,), (3, 30_000), (11,), (50_000,)],  # messages of their own
    "nested": {"a": {"w": (9, 30), "b": (17,)}, "z": [(130,), (1,)]},
}
STEPS = 3


def is_shape(tree):
    return isinstance(tree, tuple)


def each(function, tree, *more):
    """Call a function of the leaves (shapes or arrays) of several nestings."""
    if isinstance(tree, dict):
        return {k: each(function, tree[k], *(one[k] for one in more)) for k in sorted(tree)}
    if isinstance(tree, list):
        return [each(function, *entries) for entries in zip(tree, *more, strict=True)]
    return function(tree, *more)


def leaves(tree):
    found = []
    each(found.append, tree)
    return [one for one in found if one is not None]  # None where an array is frozen


def start(shape, dtype):
    x = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    return np.asarray(x + (0.5j * x if np.dtype(dtype).kind == "c" else 0)).astype(dtype)


def gradients(shapes, dtype, step, rank):
    rng = np.random.default_rng([step, rank])

    def one(shape):
        g = rng.standard_normal(shape)
        if np.dtype(dtype).kind == "c":
            g = g + 1j * rng.standard_normal(shape)
        return np.asarray(g).astype(dtype)

    return each(one, shapes)


class Nodes:
    """How the ranks of a run form nodes: `groups` are the ranks of each."""

    def __init__(self, comm, kind):
        self.comm, self.kind, ranks = comm, kind, list(range(comm.size))
        if kind == "plain":
            self.groups = [[rank] for rank in ranks]
        elif kind == "shared":
            self.groups = [ranks]
        else:  # pairs of neighbours, or of ranks that lie apart
            half = comm.size // 2
            pairs = {"pairs": [[0, 1], [2, 3]], "apart": [[0, half], [1, half + 1]]}
            self.groups = pairs[kind]
        own = next(k for k, group in enumerate(self.groups) if comm.rank in group)
        self.local = comm if kind == "shared" else comm.Split(own, comm.rank)

    def params(self, shapes, dtype):
        values = each(lambda shape: start(shape, dtype), shapes)
        if self.kind == "plain":
            return values
        arrays = each(lambda x: na.mpi.shared_array(self.local, x.shape, dtype), values)
        if self.local.rank == 0:
            each(lambda x, value: np.copyto(x, value), arrays, values)
        self.comm.Barrier()
        return arrays

    def sum(self, shapes, dtype, step):
        """The gradients of all ranks, added up in the order that is documented."""
        of_nodes = []
        for group in self.groups:
            parts = [gradients(shapes, dtype, step, rank) for rank in group]
            of_nodes.append(_added(parts))
        return _added(of_nodes)


def _added(trees):
    total = trees[0]
    for tree in trees[1:]:
        total = each(np.add, total, tree)
    return each(np.asarray, total)


@pytest.fixture(params=["plain", "shared", "pairs", "apart"])
def nodes(comm, request):
    if request.param in ("pairs", "apart") and comm.size != 4:
        pytest.skip("two nodes of two ranks: mpiexec -n 4")
    return Nodes(comm, request.param)


def expected(kind, nodes, shapes, dtype, options, divisor=1):
    params = each(lambda shape: start(shape, dtype), shapes)
    opt = kind(params, **options)
    for step in range(STEPS):
        total = nodes.sum(shapes, dtype, step)
        opt.step(each(lambda g: np.asarray(g / g.dtype.type(divisor)), total))
    return opt


def check(kind, nodes, shapes, dtype=np.float32, *, own=False, divisor=1, more=None, **options):
    """Steps of all ranks have the bits of one process; returns both optimisers."""
    whole = expected(kind, nodes, shapes, dtype, options, divisor)
    params = nodes.params(shapes, dtype)
    opt = na.mpi.Sharded(kind, params, nodes.comm, **(more or {}), **options)
    for step in range(STEPS):
        grads = gradients(shapes, dtype, step, nodes.comm.rank)
        if own:
            each(lambda buffer, g: np.copyto(buffer, g), opt.grads, grads)
            opt.step()
        else:
            opt.step(grads)
    for ours, theirs in zip(leaves(opt.params), leaves(whole.params), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert opt.t == whole.t == STEPS
    check_state(opt, whole)
    opt.check_equal()
    return opt, whole


def check_state(opt, whole):
    """The parts of all ranks are the state of one process."""
    for name in whole._backend.state:
        triples = zip(
            leaves(opt.state[name]), leaves(whole.state[name]), opt._place.parts, strict=True
        )
        for ours, theirs, (low, high) in triples:
            assert ours.tobytes() == theirs.reshape(-1)[low:high].tobytes()


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("own", "bucket"), [(False, 256), (True, 8 * 2**20)], ids=str)
def test_a_step_has_the_bits_of_one_process(nodes, shapes, own, bucket):
    check(na.Adam, nodes, shapes, own=own, lr=0.1, more={"bucket_bytes": bucket})


@pytest.mark.parametrize("shapes", [SHAPES["few"], SHAPES["tiny"]], ids=["few", "tiny"])
@pytest.mark.parametrize(
    "options",
    [{"clip_norm": 1.0}, {"clip_array_norm": 0.5}, {"nonfinite": "skip", "weight_decay": 0.1}],
    ids=str,
)
def test_norms_are_those_of_one_process(nodes, shapes, options):
    opt, whole = check(na.Adam, nodes, shapes, lr=0.1, **options)
    assert opt.grad_norm == whole.grad_norm


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_mean(nodes, reduce, clip):
    divisor = nodes.comm.size if reduce == "mean" else 1
    check(na.Adam, nodes, SHAPES["few"], divisor=divisor, more={"reduce": reduce}, clip_norm=clip)


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_dtypes(nodes, dtype):
    check(na.Adam, nodes, SHAPES["few"], dtype, more={"bucket_bytes": 999})


def test_complex_numbers_taken_whole(nodes):
    check(na.Adam, nodes, SHAPES["few"], np.complex64, complex_form="modulus")


@pytest.mark.parametrize("kind", [na.SGD, na.NAdam], ids=lambda kind: kind.__name__)
def test_other_rules(nodes, kind):
    check(kind, nodes, SHAPES["few"], lr=0.01)


@pytest.mark.parametrize(
    ("kind", "dtype", "options"),
    [
        (na.AdamW, "f4", {"lr": lambda t: 0.1 / (1 + t), "clip_value": 0.5, "maximize": True}),
        (na.Adam, "f4", {"groups": {"0": {"frozen": True}, "2": {"lr": 0.5, "weight_decay": 0.1}}}),
        (na.Adam, "f8", {"bounds": (-0.9, 0.8), "amsgrad": True}),
        (na.Adam, "c8", {"complex_form": "modulus", "weight_decay": lambda t: 0.1 * t}),
        (na.Adam, "f4", {"state_dtype": "bfloat16", "like": "torch"}),
        (na.RMSprop, "c8", {"centered": True, "momentum": 0.9}),
        (na.NAdam, "f4", {"lr": 0.1}),
        (na.SGD, "f8", {"lr": 0.1}),
    ],
    ids=["schedule", "groups", "box", "modulus", "bfloat16", "centered", "nadam", "sgd"],
)
def test_options_of_long_arrays(nodes, kind, dtype, options):
    """Arrays that are stepped chunk by chunk, where each element needs nothing but its own."""
    opt, _ = check(kind, nodes, SHAPES["long"], dtype, more={"bucket_bytes": 40_000}, **options)
    assert opt._steps._chunked == (kind is not na.NAdam and nodes.comm.size > 1)


def test_pieces_that_lie_too_far_apart_for_mpi_are_copied(nodes, monkeypatch):
    monkeypatch.setattr(steps, "_REACH", 1000)
    check(na.Adam, nodes, SHAPES["long"], own=True, more={"bucket_bytes": 40_000})


def test_a_hyperparameter_counts_from_the_next_step_on(nodes):
    shapes = SHAPES["long"]
    opt = na.mpi.Sharded(na.Adam, nodes.params(shapes, "f4"), nodes.comm, lr=0.1)
    whole = na.Adam(each(lambda shape: start(shape, "f4"), shapes), lr=0.1)
    for step, beta in enumerate((0.9, 0.5)):
        opt.beta1 = whole.beta1 = beta
        opt.step(gradients(shapes, "f4", step, nodes.comm.rank), lr=0.05 if step else None)
        whole.step(nodes.sum(shapes, "f4", step), lr=0.05 if step else None)
    for ours, theirs in zip(leaves(opt.params), leaves(whole.params), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    check_state(opt, whole)


def test_average(nodes):
    opt, whole = check(na.Adam, nodes, SHAPES["few"], ema=0.9, amsgrad=True, weight_decay=0.1)
    triples = zip(leaves(opt.averaged), leaves(whole.averaged), opt._place.parts, strict=True)
    for part, wanted, (low, high) in triples:
        assert np.array_equal(part, wanted.reshape(-1)[low:high])


def test_bounds_and_rates_of_elements(nodes):
    shapes = SHAPES["nested"]
    rng = np.random.default_rng(1)
    low = each(lambda shape: rng.uniform(-1, 0.2, shape), shapes)
    bounds = each(lambda one: (one, one + 0.5), low)
    rates = each(lambda shape: rng.uniform(0, 0.3, shape), shapes)
    rates["z"][1] = 0.25
    opt, _ = check(na.Adam, nodes, shapes, bounds=bounds, lr=rates)
    for ours, box in zip(leaves(opt.params), leaves(low), strict=True):
        assert (ours >= np.float32(box) - 1e-6).all()


def test_bounds_of_one_pair_move_the_parameters_in(nodes):
    check(na.Adam, nodes, SHAPES["few"], bounds=(-0.25, 0.5), lr=0.01)


def test_bounds_where_an_array_is_frozen(nodes):
    groups = {"a.b": {"frozen": True}}
    nest = {"a": {"w": (-0.25, 0.5)}, "z": [(-0.25, 0.5), None]}
    for bounds in ((-0.25, 0.5), nest):
        check(na.SGD, nodes, SHAPES["nested"], bounds=bounds, groups=groups, lr=0.1)


def test_two_elements_with_bounds_of_their_own(nodes):
    low = np.array([-0.5, 0.1])
    for bounds in ([(-0.5, None), (0.1, 2.0)], [(-0.5, 1.0), (0.1, 1.0)]):
        opt, _ = check(na.Adam, nodes, (2,), bounds=bounds, lr=0.5)
        assert (opt.params >= np.float32(low) - 1e-7).all()


def test_groups_and_frozen_arrays(nodes):
    groups = {"a.b": {"frozen": True}, "z": {"lr": 0.2, "weight_decay": 0.1}, "*.w": {"lr": 0.05}}
    opt, _ = check(na.AdamW, nodes, SHAPES["nested"], groups=groups, lr=0.1)
    assert opt.grads["a"]["b"] is None
    assert np.array_equal(opt.params["a"]["b"], start((17,), np.float32))


def test_schedules(nodes):
    check(na.Adam, nodes, SHAPES["few"], lr=na.schedules.Cosine(0.1, steps=5), beta1=lambda t: 0.9)


def test_accumulation_and_flush(nodes):
    shapes, dtype = SHAPES["few"], np.float32
    opt, whole = check_accumulated(nodes, shapes, dtype)
    assert (opt.flush(), whole.flush()) == (True, True)
    assert opt.flush() is False
    assert opt.t == whole.t == 2
    for ours, theirs in zip(leaves(opt.params), leaves(whole.params), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def check_accumulated(nodes, shapes, dtype):
    whole = na.Adam(each(lambda shape: start(shape, dtype), shapes), accumulate=2)
    opt = na.mpi.Sharded(na.Adam, nodes.params(shapes, dtype), nodes.comm, accumulate=2)
    for step in range(3):
        whole.step(nodes.sum(shapes, dtype, step))
        opt.step(gradients(shapes, dtype, step, nodes.comm.rank))
    assert opt.t == whole.t == 1
    return opt, whole


@pytest.mark.parametrize(("shapes", "master"), [("few", True), ("long", False)])
def test_16_bits_are_added_up_in_float32(nodes, shapes, master):
    shapes = SHAPES[shapes]
    params = nodes.params(shapes, np.float16)
    opt = na.mpi.Sharded(na.Adam, params, nodes.comm, lr=0.1, master=master)
    whole = na.Adam(each(lambda s: start(s, np.float16), shapes), lr=0.1, master=master)
    for step in range(STEPS):
        opt.step(gradients(shapes, np.float16, step, nodes.comm.rank))
        totals = []
        for group in nodes.groups:
            parts = [gradients(shapes, np.float16, step, rank) for rank in group]
            parts = [each(lambda g: g.astype(np.float32), one) for one in parts]
            several = len(nodes.groups) > 1 and len(group) > 1
            total = _added(parts)
            if several:  # messages between nodes are of 16 bits
                total = each(lambda g: g.astype(np.float16).astype(np.float32), total)
            totals.append(total)
        whole.step(each(lambda g: np.asarray(g).astype(np.float16), _added(totals)))
    for ours, theirs in zip(leaves(opt.params), leaves(whole.params), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_reset(nodes):
    opt, _ = check(na.Adam, nodes, SHAPES["few"], lr=0.1)
    opt.reset()
    assert opt.t == 0
    assert not any(one.any() for one in leaves(opt.state["m"]))
    assert opt.reset() is None


@pytest.mark.ranks(2)
@pytest.mark.parametrize("what", ["flush", "reset"])
def test_what_one_rank_cannot_do_none_does(nodes, what):
    params = [nodes.params((300,), np.float32), nodes.params((20,), np.float32)]
    opt = na.mpi.Sharded(na.Adam, params, nodes.comm, accumulate=2)
    opt.step([np.ones(300, np.float32), np.ones(20, np.float32)])
    before, kept = opt.state.copy(), params[0]
    if nodes.comm.rank == 1:
        params[0] = params[0].copy()
    own = ValueError if nodes.comm.rank == 1 else na.mpi.RankError
    with pytest.raises(own, match=r"params\[0\]: was replaced"):
        getattr(opt, what)()
    params[0] = kept
    assert opt.t == 0
    assert opt.state["m"][0].tobytes() == before["m"][0].tobytes()
    getattr(opt, what)()
    assert opt.t == (what == "flush")
    opt.check_equal()


@pytest.mark.ranks(2)
def test_gradients_dropped_on_one_rank_are_noticed(comm):
    opt = na.mpi.Sharded(na.Adam, np.ones(300), comm, accumulate=3)
    opt.step(np.ones(300))
    if comm.rank == 1:
        opt.discard()
    with pytest.raises(na.mpi.RankError, match="rank 1 has added up 0 gradients so far, rank 0 1"):
        opt.step(np.ones(300))
    opt.discard()
    opt.step(np.ones(300))
    assert opt.flush()


@pytest.mark.ranks(2)
def test_a_schedule_of_a_group_that_differs_is_noticed(comm):
    groups = {"1": {"lr": lambda t: 0.1 + 0.1 * comm.rank}}
    opt = na.mpi.Sharded(na.Adam, [np.ones(5), np.ones(7)], comm, groups=groups)
    with pytest.raises(na.mpi.RankError, match="t, lr or a hyperparameter of rank 1"):
        opt.step([np.ones(5), np.ones(7)])


def test_an_exit_in_a_schedule_reaches_all_ranks(comm):
    def leave(t):
        raise SystemExit(3) if comm.rank == 0 else AssertionError

    opt = na.mpi.Sharded(na.SGD, np.ones(5), comm)
    if comm.rank == 0:
        opt.lr = leave
    with pytest.raises(SystemExit if comm.rank == 0 else na.mpi.RankError):
        opt.step(np.ones(5))


def test_attributes_that_need_an_option_say_so(comm):
    opt = na.mpi.Sharded(na.Adam, np.ones(5), comm)
    for name in ("grad_norm", "averaged"):
        with pytest.raises(AttributeError) as alone:
            getattr(opt.shard, name)
        with pytest.raises(AttributeError) as caught:
            getattr(opt, name)
        assert str(caught.value) == str(alone.value)


def test_state_may_be_set(comm):
    opt = na.mpi.Sharded(na.Adam, np.ones(300), comm)
    opt.step(np.ones(300))
    kept = opt.state.copy()
    opt.reset()
    opt.state = kept
    assert opt.t == 1
    assert opt.state["m"].tobytes() == kept["m"].tobytes()


def test_a_guard_skips_and_raises_on_all_ranks(nodes):
    params = nodes.params(SHAPES["few"], np.float32)
    last = nodes.comm.rank == nodes.comm.size - 1
    bad = gradients(SHAPES["few"], np.float32, 0, nodes.comm.rank)
    if last:
        bad[0][3] = np.nan
    before = copy.deepcopy(params)
    opt = na.mpi.Sharded(na.Adam, params, nodes.comm, nonfinite="skip")
    opt.step(bad)
    assert (opt.t, opt.skipped) == (0, 1)
    opt = na.mpi.Sharded(na.Adam, params, nodes.comm, nonfinite="raise")
    with pytest.raises(FloatingPointError, match="grads: hold NaN"):
        opt.step(bad)
    assert opt.t == 0
    each(np.testing.assert_array_equal, params, before)
    opt.step(gradients(SHAPES["few"], np.float32, 0, nodes.comm.rank))
    assert opt.t == 1


# --- gradients ----------------------------------------------------------------------------------


def test_other_memory_orders_are_copied(comm):
    params = np.zeros((40, 50), np.float32)
    opt = na.mpi.Sharded(na.Adam, params, comm)
    g = np.asfortranarray(np.full((40, 50), 1.0 + comm.rank, np.float32))
    opt.step(g)
    opt.step(g[::-1])
    read_only = g.copy()
    read_only.flags.writeable = False
    opt.step(read_only)
    assert opt.t == 3


def test_a_number_is_the_gradient_of_a_0d_array(comm):
    x = np.array(1.0)
    opt = na.mpi.Sharded(na.SGD, x, comm, lr=0.5)
    opt.step(1.0 + comm.rank)
    assert x == 1.0 - 0.5 * sum(range(1, comm.size + 1))


@pytest.mark.parametrize(
    ("grads", "error", "text"),
    [
        (lambda x: np.zeros(7, np.float32), ValueError, r"grads: expected shape \(500,\)"),
        (lambda x: np.zeros(500), TypeError, "grads: expected float32 like params, got float64"),
        (lambda x: [1.0] * 500, TypeError, "grads: expected a NumPy array, got list"),
        (lambda x: None, ValueError, "grads: none were passed"),
        (lambda x: x, ValueError, "grads shares memory with params"),
    ],
    ids=["shape", "dtype", "list", "none", "overlap"],
)
def test_a_refusal_on_one_rank_is_one_on_all(comm, grads, error, text):
    x = np.ones(500, np.float32)
    opt = na.mpi.Sharded(na.Adam, x, comm)
    last = comm.rank == comm.size - 1
    given = grads(x) if last else np.ones(500, np.float32)
    with pytest.raises(error if last else na.mpi.RankError, match=text) as caught:
        opt.step(given)
    if not last:
        assert f"rank {comm.size - 1} of {comm.size} failed" in str(caught.value)
    assert opt.t == 0
    assert (x == 1).all()
    opt.step(np.ones(500, np.float32))
    assert opt.t == 1


def test_replaced_buffers_are_refused(comm):
    opt = na.mpi.Sharded(na.Adam, [np.ones(5), np.ones(6)], comm)
    opt.grads[1] = np.ones(6)
    with pytest.raises((ValueError, na.mpi.RankError), match=r"opt.grads\[1\]: was replaced"):
        opt.step()


def test_replaced_parameters_are_refused(comm):
    params = [np.ones(5), np.ones(6)]
    opt = na.mpi.Sharded(na.Adam, params, comm)
    params[0] = np.ones(5)
    with pytest.raises((ValueError, na.mpi.RankError), match=r"params\[0\]: was replaced"):
        opt.step([np.ones(5), np.ones(6)])


# --- what has to be the same --------------------------------------------------------------------


@pytest.mark.ranks(2)
def test_parameters_that_differ_are_refused(comm):
    params = [np.ones(5), np.ones(6)]
    params[1][3] += comm.rank == 1
    with pytest.raises(na.mpi.RankError, match=r"params\[1\]: differs between rank 0 and rank 1"):
        na.mpi.Sharded(na.Adam, params, comm)


@pytest.mark.ranks(2)
def test_check_equal(comm):
    params = [np.ones(5), np.ones(6, np.float64)]
    opt = na.mpi.Sharded(na.Adam, params, comm)
    opt.check_equal()
    params[0][0] = comm.rank
    with pytest.raises(na.mpi.RankError, match=r"params\[0\]: differs"):
        opt.check_equal()


@pytest.mark.ranks(2)
@pytest.mark.parametrize("what", ["shape", "dtype", "class", "reduce", "nesting"])
def test_other_arguments_on_one_rank_are_refused(comm, what):
    first = comm.rank == 0
    x = np.ones(5 if what == "shape" and first else 6, "f4" if what == "dtype" and first else "f8")
    kind = na.SGD if what == "class" and first else na.Adam
    reduce = "mean" if what == "reduce" and first else "sum"
    params = [x] if what == "nesting" and first else x
    with pytest.raises(na.mpi.RankError, match="differ between rank 0 and rank 1"):
        na.mpi.Sharded(kind, params, comm, reduce=reduce)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("name", ["lr", "t", "clip_value"])
def test_another_lr_on_one_rank_is_refused(comm, name):
    x = np.ones(300)
    opt = na.mpi.Sharded(na.Adam, x, comm, clip_value=5.0)
    if comm.rank == 0:
        setattr(opt, name, 3)
    with pytest.raises(na.mpi.RankError, match="t, lr or a hyperparameter of rank 1"):
        opt.step(np.ones(300))
    assert (x == 1).all()
    setattr(opt, name, 3)
    opt.step(np.ones(300))


@pytest.mark.ranks(2)
@pytest.mark.parametrize("name", ["lr", "bounds"])
def test_other_options_of_elements_on_one_rank_are_refused(comm, name):
    values = np.linspace(0.1, 1, 300)
    values[7] += comm.rank == 1
    given = {name: values if name == "lr" else (values - 5, None)}
    with pytest.raises(na.mpi.RankError, match="Sharded: lr or bounds differ between rank 0 and"):
        na.mpi.Sharded(na.Adam, np.zeros(300), comm, **given)


def test_lr_of_one_step(nodes):
    x = nodes.params((300,), np.float32)
    opt = na.mpi.Sharded(na.SGD, x, nodes.comm, lr=5.0)
    opt.step(np.ones(300, np.float32), lr=0.0)
    assert x.tobytes() == start((300,), np.float32).tobytes()
    with pytest.raises((ValueError, na.mpi.RankError), match="lr: "):
        opt.step(np.ones(300, np.float32), lr=-1.0)


# --- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"kind": 5}, TypeError, "kind: expected a class such as numadam.Adam"),
        ({"params": np.zeros((3, 4)).T}, ValueError, "params: expected an array in C order"),
        ({"params": [np.zeros(3), 5.0]}, TypeError, r"params\[1\]: expected a NumPy array"),
        ({"params": []}, ValueError, "params: holds no array"),
        ({"reduce": "max"}, ValueError, "reduce: expected 'sum' or 'mean'"),
        ({"bucket_bytes": 0}, ValueError, "bucket_bytes: expected a whole number"),
        ({"sparse": "lazy"}, ValueError, "sparse: the gradients of all ranks"),
        ({"capturable": True}, ValueError, "capturable: "),
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


def test_read_only_parameters_are_refused(comm):
    x = np.zeros(4)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="params: is read-only"):
        na.mpi.Sharded(na.Adam, x, comm)


@pytest.mark.ranks(2)
def test_shared_and_plain_parameters_together_are_refused(comm):
    params = [na.mpi.shared_array(comm, 5), np.zeros(5)]
    with pytest.raises(ValueError, match=r"params\[1\]: is a plain array, but params\[0\]"):
        na.mpi.Sharded(na.Adam, params, comm)


@pytest.mark.ranks(2)
def test_shared_parameters_of_other_ranks_are_refused(comm):
    alone = comm.Split(comm.rank, 0)
    x = na.mpi.shared_array(comm, 5)
    with pytest.raises(ValueError, match="of other ranks than those of comm"):
        na.mpi.Sharded(na.Adam, x, alone)


@pytest.mark.ranks(3)
def test_nodes_of_unlike_sizes_are_refused(comm):
    part = comm.Split(0 if comm.rank == 0 else 1, comm.rank)
    x = na.mpi.shared_array(part, 5)
    with pytest.raises(ValueError, match="comm: expected equally many ranks on each node"):
        na.mpi.Sharded(na.Adam, x, comm)


# --- the object ---------------------------------------------------------------------------------


def test_hyperparameters_are_those_of_the_class(comm):
    opt = na.mpi.Sharded(na.Adam, np.ones(100), comm, lr=0.5, beta1=0.8)
    assert (opt.lr, opt.beta1, opt.amsgrad) == (0.5, 0.8, False)
    opt.lr, opt.beta1 = 0.25, 0.7
    assert (opt.shard.lr, opt.shard.beta1) == (0.25, 0.7)
    with pytest.raises(AttributeError, match="amsgrad: cannot be changed"):
        opt.amsgrad = True
    with pytest.raises(AttributeError, match="no attribute 'snapshot'"):
        opt.snapshot()
    with pytest.raises(AttributeError, match="no attribute 'beta3' to set"):
        opt.beta3 = 1
    assert {"beta1", "step", "shard"} <= set(dir(opt))


def test_repr(comm):
    opt = na.mpi.Sharded(na.Adam, np.ones(100), comm, lr=0.5)
    text = f"Sharded(Adam(lr=0.5), rank {comm.rank} of {comm.size}, {comm.size} x 1, t=0; "
    assert repr(opt) == text + "1 array, 100 float64, cpu)"


def test_it_cannot_be_pickled_or_copied(comm):
    opt = na.mpi.Sharded(na.Adam, np.ones(100), comm)
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
    opt = na.mpi.Sharded(na.Adam, np.ones(n, np.float32), Counting(comm.Dup()), bucket_bytes=5000)
    opt.step(np.ones(n, np.float32))
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

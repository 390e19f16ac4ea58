"""On a GPU: state that is seen, set, reset, pickled, saved, and restored."""

from __future__ import annotations

import copy
import pickle
import signal

import numpy as np
import pytest

import numadam as na
from tests.processes import strike_everywhere
from tests.runs import load_into, loaded
from tests.trees import tree_map


def test_bad_state_is_refused_whole(cp):
    opt = na.NAdam(cp.ones(3))
    opt.step(cp.ones(3))
    before = opt.state["m"].copy()
    with pytest.raises(ValueError, match=r"state\['v'\]: expected shape \(3,\) like params"):
        opt.state = {**opt.state, "t": 9, "m": cp.zeros(3), "v": cp.zeros(4)}
    with pytest.raises(TypeError, match=r"state\['m'\]: expected a CuPy array, got numpy.ndarray"):
        opt.state["m"] = np.zeros(3)
    for bad in ([0.0, np.nan, -1.0], [-np.inf, 1.0, 1.0]):
        with pytest.raises(ValueError, match=r"^state\['v'\]: expected numbers >= 0"):
            opt.state["v"] = cp.asarray(np.array(bad))
    assert opt.t == 1
    assert (opt.state["m"] == before).all()
    opt.state["v"] = cp.asarray(np.array([0.0, np.nan, np.inf]))
    cp.testing.assert_array_equal(opt.state["v"], [0.0, np.nan, np.inf])
    other = na.NAdam(np.ones(3))
    opt.t = other.t = 7
    assert opt.state["mu_product"] == other.state["mu_product"]
    assert opt.current_lr == opt.lr


@pytest.mark.parametrize("way", ["pickle", "file", "state"])
def test_another_optimiser_goes_on_from_all_that_is_kept(cp, way):
    """Averages, products and counters too, in the arrays that were seen before."""
    options = {"ema": 0.9, "nonfinite": "skip"}

    def make():
        return na.NAdam({"w": cp.ones((3, 4)), "b": [cp.zeros(4), cp.zeros(())]}, **options)

    def grads(x):
        return {"w": cp.full((3, 4), x), "b": [cp.ones(4), cp.ones(())]}

    opt = make()
    for x in (1.0, np.nan, 2.0):
        opt.step(grads(x))
    if way == "state":
        twin = make()
        seen, twin.state = twin.state["m"]["w"], dict(opt.state)
        assert (seen == opt.state["m"]["w"]).all()
        tree_map(lambda p, q: p.__setitem__(..., q), twin.params, opt.params)
    else:
        twin = pickle.loads(pickle.dumps(opt)) if way == "pickle" else loaded(opt, xp=cp)
    for each in (opt, twin):
        each.step(grads(3.0))
    assert (twin.t, twin.skipped) == (opt.t, opt.skipped) == (3, 1)
    assert twin.state["mu_product"] == opt.state["mu_product"]
    for name in ("m", "v", "average"):
        cp.testing.assert_array_equal(twin.state[name]["w"], opt.state[name]["w"])
    cp.testing.assert_array_equal(twin.params["w"], opt.params["w"])


def test_a_reset_optimiser_goes_on_as_a_new_one(cp):
    options = {"ema": 0.9, "nonfinite": "skip", "clip_norm": 1.0, "bounds": (-3.0, 3.0)}
    p, twin = cp.ones(3), cp.full(3, 3.0)
    opt = na.NAdam(p, **options)
    for x in (1.0, 2.0, np.nan):
        opt.step(cp.full(3, x))
    p[...] = 5.0
    opt.reset()
    new = na.NAdam(twin, **options)
    assert (opt.t, opt.skipped) == (0, 0)
    assert np.isnan(opt.grad_norm)
    for each in (opt, new):
        for _ in range(2):
            each.step(cp.ones(3))
    for key in new.state:
        cp.testing.assert_array_equal(opt.state[key], new.state[key])
    cp.testing.assert_array_equal(p, twin)


# --- snapshots ------------------------------------------------------------------------------------

SNAPSHOTS = {
    "scalars by value": (na.NAdam, {}),
    "in a table": (na.NAdam, {"nonfinite": "skip", "groups": {"b": {"lr": 0.5}}}),
    "average": (na.Adam, {"clip_norm": 1.0, "ema": 0.9}),
}


def drawn(cp, seed):
    rng = np.random.default_rng(seed)
    strided = cp.asarray(rng.standard_normal((4, 6)).astype("f4"))[::2, ::3]
    return {"w": cp.asarray(rng.standard_normal((3, 2)).astype("f4")), "b": strided}


def content(opt):
    backend = opt._backend
    state = [leaf for leaves in backend.state.values() for leaf in leaves]
    counters = {name: np.asarray(value).tolist() for name, value in backend.counters.items()}
    norm = repr(opt.grad_norm) if opt._settings.plan.norm else ""
    return [a.get().tobytes() for a in (*backend.params, *state)], counters, norm


@pytest.mark.parametrize("case", SNAPSHOTS)
def test_a_restored_run_goes_on_as_the_one_that_never_left(cp, case):
    rule, options = SNAPSHOTS[case]
    opt, twin = (rule(drawn(cp, 0), lr=0.1, **options) for _ in range(2))
    for each in (opt, twin):
        for seed in (1, 2, 3):
            each.step(drawn(cp, seed))
    here, snap = content(opt), opt.snapshot()
    opt.step(drawn(cp, 7))
    opt.reset()
    assert content(opt) != here
    opt.restore(snap)
    assert content(opt) == here
    assert opt.snapshot(out=snap) is snap
    for each in (opt, twin):
        each.step(drawn(cp, 4))
    assert content(opt) == content(twin)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("way", ["restore", "snapshot", "load"])
def test_ctrl_c_comes_before_or_after(cp, way, tmp_path):
    opt = na.SGD(drawn(cp, 0), lr=0.1, momentum=0.5)
    first = opt.snapshot()
    opt.save(tmp_path / "first")
    opt.step(drawn(cp, 1))
    second, snap, seen = opt.snapshot(), opt.snapshot(), []

    def make():
        opt.restore(first)
        opt.snapshot(out=snap)
        opt.restore(second)

    def work(_):
        if way == "load":
            opt.load(tmp_path / "first")
        else:
            opt.restore(first) if way == "restore" else opt.snapshot(out=snap)

    def check(_):
        if way == "snapshot":
            opt.restore(snap)
        seen.append(content(opt))

    def strike():
        signal.raise_signal(signal.SIGINT)

    assert strike_everywhere(make, work, check, inside="/_cuda/backend.py", strike=strike) > 20
    assert len({repr(each) for each in seen}) == 2


# --- checkpoints ----------------------------------------------------------------------------------

#: Options and dtype: all that a GPU counts, carries and keeps.
FILES = {
    "sums, bounds, average": ({"bounds": (-0.5, 0.25), "ema": 0.9, "clip_norm": 0.1}, "float32"),
    "skips": ({"nonfinite": "skip", "lr": {"w": 0.1, "b": np.linspace(0.0, 0.1, 5)}}, "float64"),
    "products": ({"beta1": na.schedules.Polynomial(0.9, steps=9, end=0.5)}, "float64"),
    "modulus": ({"complex_form": "modulus"}, "complex64"),
    "frozen": ({"groups": {"b": {"frozen": True}}}, "float32"),
}


def arrays(seed, dtype):
    rng = np.random.default_rng(seed)
    w, b = rng.standard_normal((3, 4)), rng.standard_normal(5)
    return {"w": np.asfortranarray(w.astype(dtype)), "b": b.astype(dtype)}


@pytest.mark.parametrize("case", FILES)
def test_the_file_of_a_gpu_is_that_of_a_cpu(cp, case, tmp_path):
    """Of the same numbers, to the byte; and a run goes on from either."""
    options, dtype = FILES[case]

    def make(seed=0):
        return na.Adam(tree_map(cp.asarray, arrays(seed, dtype)), **copy.deepcopy(options))

    gpu = make()
    for k in range(1, 4):
        gpu.step(tree_map(cp.asarray, arrays(k, dtype)))
    paths = [tmp_path / f"{k}.npz" for k in range(4)]
    gpu.save(paths[0])
    cpu = na.load(paths[0])
    cpu.save(paths[1])
    there = na.load(paths[1], xp=cp)
    assert there.params["w"].flags.f_contiguous
    there.save(paths[2])
    into = load_into(make(9), cpu)
    into.save(paths[3])
    assert len({path.read_bytes() for path in paths}) == 1
    saved = set()
    for each in (gpu, there, into):
        each.step(tree_map(cp.asarray, arrays(7, dtype)))
        each.save(paths[0])
        saved.add(paths[0].read_bytes())
    assert len(saved) == 1


def test_a_frozen_array_of_the_host_beside_arrays_of_the_gpu(cp):
    groups = {"ids": {"frozen": True}}
    opt = na.Adam({"w": cp.ones(3), "ids": np.arange(4)}, groups=groups)
    for other in (
        loaded(opt),
        load_into(na.Adam({"w": cp.ones(3), "ids": np.zeros(4, int)}, groups=groups), opt),
        load_into(na.Adam({"w": np.ones(3), "ids": cp.zeros(4, int)}, groups=groups), opt),
    ):
        assert cp.asnumpy(other.params["ids"]).tolist() == [0, 1, 2, 3]


# --- options that are set later -------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.5, "nonfinite": "skip"},
        {"clip_value": 0.3, "bounds": (-0.2, 0.3), "maximize": True},
        {"lr": {"a": np.linspace(0.0, 0.1, 4), "b": 0.2}, "weight_decay": 0.1},
    ],
    ids=range(3),
)
def test_an_option_that_is_set_later_takes_another_kernel(cp, options):
    """As on the CPU; state and snapshots stay."""
    start = {"a": np.linspace(-1, 1, 4), "b": np.linspace(1, -1, 3)}
    here, there = tree_map(np.copy, start), tree_map(cp.asarray, start)
    gpu, cpu = na.Adam(there, lr=0.1), na.Adam(here, lr=0.1)
    snapshot, views = gpu.snapshot(), gpu.state["m"]
    for k in range(6):
        for opt in (gpu, cpu) if k == 3 else ():
            for name, value in options.items():
                setattr(opt, name, value)
        grads = tree_map(lambda x, k=k: np.sin(k + 3 * x), start)
        gpu.step(tree_map(cp.asarray, grads))
        cpu.step(grads)
        for key, array in here.items():
            np.testing.assert_allclose(there[key].get(), array, rtol=1e-12)
    cp.testing.assert_array_equal(views["a"], gpu.state["m"]["a"])
    gpu.restore(snapshot)
    assert gpu.t == 0
    np.testing.assert_array_equal(there["a"].get(), start["a"])

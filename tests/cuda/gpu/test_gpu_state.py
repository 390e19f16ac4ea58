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


def test_state_is_seen_and_loaded_whole(cp):
    params = [cp.asarray(np.ones((2, 3)), order="F"), cp.ones(4)]
    opt, grads = na.Adam(params), [cp.ones((2, 3)), cp.ones(4)]
    opt.step(grads)
    saved = {name: copy.deepcopy(opt.state[name]) for name in opt.state}
    after_one = [a.copy() for a in params]
    opt.step(grads)
    after_two = [a.copy() for a in params]
    shown = opt.state["m"][0]
    opt.state = saved
    assert opt.t == 1
    assert (shown == saved["m"][0]).all()
    for a, b in zip(params, after_one, strict=True):
        a[...] = b
    opt.step(grads)
    for a, b in zip(params, after_two, strict=True):
        cp.testing.assert_array_equal(a, b)


def test_bad_state_is_refused_whole(cp):
    opt = na.Adam(cp.ones(3))
    opt.step(cp.ones(3))
    before = opt.state["m"].copy()
    with pytest.raises(ValueError, match=r"state\['v'\]: expected shape \(3,\) like params"):
        opt.state = {"t": 9, "m": cp.zeros(3), "v": cp.zeros(4)}
    with pytest.raises(TypeError, match=r"state\['m'\]: expected a CuPy array, got numpy.ndarray"):
        opt.state["m"] = np.zeros(3)
    for bad in ([0.0, np.nan, -1.0], [-np.inf, 1.0, 1.0]):
        with pytest.raises(ValueError, match=r"^state\['v'\]: expected numbers >= 0"):
            opt.state["v"] = cp.asarray(np.array(bad))
    assert opt.t == 1
    assert (opt.state["m"] == before).all()
    for fine in ([0.0, np.nan, np.inf], [-0.0, 1.0, 2.0]):
        opt.state["v"] = cp.asarray(np.array(fine))
        cp.testing.assert_array_equal(opt.state["v"], fine)


def test_many_arrays_state_and_pickle(cp):
    params = {"w": cp.ones((3, 4)), "b": [cp.zeros(4), cp.zeros(())]}
    grads = {"w": cp.ones((3, 4)), "b": [cp.ones(4), cp.ones(())]}
    opt = na.Adam(params, amsgrad=True)
    opt.step(grads)
    twins = [pickle.loads(pickle.dumps(opt)), loaded(opt, xp=cp)]
    opt.step(grads)
    for twin in twins:
        twin.step(grads)
        assert twin.t == 2
        assert (twin.params["w"] == params["w"]).all()
        assert (twin.state["vmax"]["b"][0] == opt.state["vmax"]["b"][0]).all()


@pytest.mark.parametrize("name", ["w", "b"])
def test_saved_state_goes_on_with_all_it_needs(cp, name):
    """Averages, products and counters are in a saved state."""
    options = {"ema": 0.9, "nonfinite": "skip"}
    params, twins = ({name: cp.ones(3)} for _ in range(2))
    one, two = na.NAdam(params, **options), na.NAdam(twins, **options)
    for _ in range(3):
        one.step({name: cp.ones(3)})
    one.step({name: cp.asarray(np.array([1.0, 2.0, np.nan]))})
    one.step({name: cp.ones(3)})
    assert set(one.state) == {
        *("t", "skipped", "skipped_in_a_row", "mu_product"),
        *("m", "v", "average"),
    }
    two.state = dict(one.state)
    twins[name][...] = params[name]
    for opt in (one, two):
        opt.step({name: cp.ones(3)})
    cp.testing.assert_array_equal(twins[name], params[name])
    assert one.state["mu_product"] == two.state["mu_product"]
    assert (one.t, two.t, one.skipped, two.skipped) == (5, 5, 1, 1)


def test_a_reset_optimiser_goes_on_as_a_new_one(cp):
    options = {"ema": 0.9, "nonfinite": "skip", "clip_norm": 1.0, "bounds": (-3.0, 3.0)}
    p, twin = cp.ones(3), cp.full(3, 3.0)
    opt = na.NAdam(p, **options)
    for k in range(3):
        opt.step(cp.full(3, 1.0 + k))
    opt.step(cp.full(3, np.nan))
    p[...] = 5.0
    opt.reset()
    new = na.NAdam(twin, **options)
    cp.testing.assert_array_equal(p, twin)
    assert (opt.t, opt.skipped) == (0, 0)
    assert np.isnan(opt.grad_norm)
    for each in (opt, new):
        for _ in range(2):
            each.step(cp.ones(3))
    for key in new.state:
        cp.testing.assert_array_equal(opt.state[key], new.state[key])
    cp.testing.assert_array_equal(p, twin)


def test_a_t_that_is_set_and_the_present_learning_rate(cp):
    opt, other = na.NAdam(cp.ones(3)), na.NAdam(np.ones(3))
    opt.t = other.t = 7
    assert opt.t == 7
    assert opt.state["mu_product"] == other.state["mu_product"]
    assert opt.current_lr == opt.lr


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
    with pytest.raises(ValueError, match="of another optimiser"):
        twin.restore(snap)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("way", ["restore", "snapshot", "grads", "load"])
def test_ctrl_c_comes_before_or_after(cp, way, tmp_path):
    opt = na.SGD(drawn(cp, 0), lr=0.1, momentum=0.5)
    first, zeros = opt.snapshot(), drawn(cp, 0)
    opt.save(tmp_path / "first")
    for leaf in zeros.values():
        leaf[...] = 0
    opt.step(drawn(cp, 1))
    second, snap, seen = opt.snapshot(), opt.snapshot(), []

    def make():
        opt.restore(first)
        opt.snapshot(out=snap)
        opt.restore(second)
        opt.grads = zeros

    def work(_):
        if way == "grads":
            opt.grads = drawn(cp, 5)
        elif way == "load":
            opt.load(tmp_path / "first")
        else:
            opt.restore(first) if way == "restore" else opt.snapshot(out=snap)

    def check(_):
        if way == "snapshot":
            opt.restore(snap)
        grads = [leaf.get().tobytes() for leaf in opt.grads.values()]
        seen.append(grads if way == "grads" else content(opt))

    def strike():
        signal.raise_signal(signal.SIGINT)

    inside = "/_optimizer/base.py" if way == "grads" else "/_cuda/backend.py"
    assert strike_everywhere(make, work, check, inside=inside, strike=strike) > 20
    assert len({repr(each) for each in seen}) == 2


# --- checkpoints ----------------------------------------------------------------------------------

#: Options and dtype: all that a GPU counts, carries and keeps.
FILES = {
    "plain": ({}, "float32"),
    "sums, bounds, average": (
        {"bounds": (-0.5, 0.25), "ema": 0.9, "clip_norm": 0.1},
        "float32",
    ),
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
    assert type(cpu.params["w"]) is np.ndarray
    cpu.save(paths[1])
    there = na.load(paths[1], xp=cp)
    assert type(there.params["w"]) is cp.ndarray
    assert there.params["w"].flags.f_contiguous
    there.save(paths[2])
    into = load_into(make(9), cpu)
    into.save(paths[3])
    assert len({path.read_bytes() for path in paths}) == 1
    assert cpu.t == there.t == into.t == gpu.t
    saved = set()
    for each in (gpu, there, into):
        each.step(tree_map(cp.asarray, arrays(7, dtype)))
        each.save(paths[0])
        saved.add(paths[0].read_bytes())
    assert len(saved) == 1


def test_a_frozen_array_of_the_host_beside_arrays_of_the_gpu(cp):
    groups = {"ids": {"frozen": True}}
    params = {"w": cp.ones(3), "ids": np.arange(4)}
    opt = na.Adam(params, groups=groups)
    assert (loaded(opt).params["ids"] == params["ids"]).all()
    other = na.Adam({"w": cp.ones(3), "ids": np.zeros(4, int)}, groups=groups)
    load_into(other, opt)
    assert other.params["ids"].tolist() == [0, 1, 2, 3]
    here = na.Adam({"w": np.ones(3), "ids": cp.zeros(4, int)}, groups=groups)
    load_into(here, opt)
    assert here.params["ids"].get().tolist() == [0, 1, 2, 3]


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
    there = {key: cp.asarray(one) for key, one in start.items()}
    here = {key: one.copy() for key, one in start.items()}
    pair = na.Adam(there, lr=0.1), na.Adam(here, lr=0.1)
    views = pair[0].state["m"]
    snapshot = pair[0].snapshot()
    for k in range(6):
        if k == 3:
            for opt in pair:
                for name, value in options.items():
                    setattr(opt, name, value)
        grads = {key: np.sin(k + 3 * one) for key, one in start.items()}
        pair[0].step({key: cp.asarray(one) for key, one in grads.items()})
        pair[1].step(grads)
        for key, one in here.items():
            np.testing.assert_allclose(there[key].get(), one, rtol=1e-12)
    np.testing.assert_array_equal(views["a"].get(), pair[0].state["m"]["a"].get())
    pair[0].restore(snapshot)
    assert pair[0].t == 0
    np.testing.assert_array_equal(there["a"].get(), start["a"])

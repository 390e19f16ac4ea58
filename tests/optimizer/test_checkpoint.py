"""`opt.save`, `opt.load` and `numadam.load`: what they take over, and what they refuse."""

from __future__ import annotations

import copy
import json
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numadam as na
from numadam import CheckpointError
from numadam._checkpoint.container import read, write
from numadam._optimizer import checkpoint
from tests.processes import python, strike_everywhere
from tests.runs import SINK, digest, load_into, loaded, meanwhile, tree_of
from tests.trees import relaxed

Pair = namedtuple("Pair", "weight bias")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


def falling(taken):
    return 0.1 / (taken + 1)


def trained(params=None, steps=3, **options):
    """An optimiser after some steps; every array of the parameters is its own gradient."""
    if params is None:
        params = {"w": np.linspace(1, 2, 6), "b": np.ones(2)}
    opt = na.Adam(params, **options)
    for _ in range(steps):
        opt.step({key: p.copy() for key, p in opt.params.items()})
    return opt


# --- what is taken over --------------------------------------------------------------------------


def test_a_file_holds_every_array_by_name_and_every_option(path):
    opt = trained()
    opt.save(path)
    _, meta, arrays = content = read(path, "optimizer")
    assert sorted(arrays) == ["m/b", "m/w", "p/b", "p/w", "v/b", "v/w"]
    for key in ("w", "b"):
        np.testing.assert_array_equal(arrays[f"p/{key}"], opt.params[key])
        np.testing.assert_array_equal(arrays[f"v/{key}"], opt.state["v"][key])
    # which communicator there is, is no matter of the file
    assert {*meta["options"], "comm"} == opt._settings.options.keys()
    assert meta["counters"] == {"t": 3}
    del meta["options"]["ema_warmup"]  # of an option that is younger than the file
    write(path, content)
    assert digest(na.load(path)) == digest(opt)


def test_changed_hyperparameters_come_along():
    opt = trained(clip_norm=np.inf, lr=na.schedules.Constant(0.5))
    opt.clip_norm, opt.beta1, opt.lr = 0.1, 0.5, na.schedules.Step(0.1, steps=2)
    others = [loaded(opt), load_into(trained(clip_norm=3.0, lr=falling), opt)]
    assert {repr(other) for other in others} == {repr(opt)}
    for one in (opt, *others):
        one.step({"w": np.ones(6), "b": np.ones(2)})
    assert {digest(other) for other in others} == {digest(opt)}


def test_parameters_are_written_in_place_and_those_of_the_file_are_new():
    opt, other = trained(), trained(steps=1)
    w = other.params["w"]
    load_into(other, opt)
    assert other.params["w"] is w
    np.testing.assert_array_equal(w, opt.params["w"])
    assert not np.shares_memory(loaded(opt).params["w"], w)


def test_a_plateau_stays_the_object_that_the_user_holds():
    saved = na.schedules.ReduceOnPlateau(0.1, factor=0.5, patience=1)
    opt = trained(lr=saved, beta1=saved)
    for f in (3.0, 2.0, 2.0, 2.0, 1.0):
        saved.observe(f)
    mine = na.schedules.ReduceOnPlateau(0.3, factor=0.9, patience=1)
    other = load_into(trained(lr=mine, beta1=mine), opt)
    assert other.lr is other.beta1 is mine
    assert mine == saved
    new = loaded(opt)
    assert new.lr is new.beta1
    assert new.lr == saved
    assert new.lr is not saved
    apart = trained(lr=na.schedules.ReduceOnPlateau(0.1), beta1=na.schedules.ReduceOnPlateau(0.1))
    assert load_into(apart, opt).lr == saved
    with pytest.raises(CheckpointError, match="one ReduceOnPlateau of this optimiser is two"):
        load_into(other, trained(lr=apart.lr, beta1=copy.copy(apart.lr)))


def test_a_plateau_in_a_group_goes_on():
    def make(start=0.1):
        plateau = na.schedules.ReduceOnPlateau(start, patience=0)
        return plateau, trained(groups={"w": {"lr": plateau}})

    (saved, opt), (mine, other) = make(), make()
    saved.observe(1.0)
    saved.observe(1.0)
    assert load_into(other, opt).groups["w"]["lr"] is mine
    assert mine == saved
    assert mine.value == pytest.approx(0.01)
    with pytest.raises(CheckpointError, match=r"groups: is .* in the file, .* cannot be changed"):
        load_into(make(0.2)[1], opt)


def test_frozen_leaves_of_every_kind(path):
    def params():
        table = np.arange(6, dtype=np.int32).reshape(2, 3)
        return {"w": np.ones(6), "ids": table, "none": None, "count": 3, "b": np.ones(2)}

    frozen = {name: {"frozen": True} for name in ("ids", "none", "count")}
    opt = na.Adam(params(), groups=frozen)
    opt.step({"w": np.ones(6), "b": np.ones(2), "ids": 0, "none": 0, "count": 0})
    opt.save(path)
    new = na.load(path)
    assert list(new.params) == list(opt.params)
    assert (new.params["count"], new.params["none"]) == (3, None)
    np.testing.assert_array_equal(new.params["ids"], opt.params["ids"])
    assert new.params["ids"].dtype == np.int32
    here = params()
    here["ids"][...] = 0
    other = na.Adam(here, groups=frozen)
    other.load(path)
    np.testing.assert_array_equal(here["ids"], opt.params["ids"])
    here["ids"].flags.writeable = False
    other.load(path)  # it has these values
    fixed = params()
    fixed["ids"][0, 0] = 7
    fixed["ids"].flags.writeable = False
    with pytest.raises(CheckpointError, match="p/ids: is frozen, read-only, and has other"):
        na.Adam(fixed, groups=frozen).load(path)
    with pytest.raises(CheckpointError, match="p/count: is 3 in the file, 4 in params"):
        na.Adam(params() | {"count": 4}, groups=frozen).load(path)


def test_containers_of_the_user_are_loaded_into_and_not_made(path):
    opt = na.Adam({"x": Pair(np.ones(3), np.zeros(2))})
    opt.step({"x": Pair(np.ones(3), np.ones(2))})
    opt.save(path)
    assert "m/x/weight" in read(path, "optimizer").arrays
    with pytest.raises(CheckpointError, match=r"p/x: is in a .*Pair, .* call its `load`"):
        na.load(path)
    other = na.Adam({"x": Pair(np.ones(3), np.zeros(2))}, lr=0.5)
    other.load(path)
    assert digest(other) == digest(opt)


class Mine(na.Adam):
    """A class of a user."""


def test_a_class_of_the_user_is_loaded_into_and_not_made(path):
    opt = Mine(np.ones(3))
    opt.step(np.ones(3))
    opt.save(path)
    message = r"saved by .*\.Mine, which is not in numadam\. .*opt\.load"
    with pytest.raises(CheckpointError, match=message):
        na.load(path)
    other = Mine(np.zeros(3))
    other.load(path)
    assert digest(other) == digest(opt)


def test_parameters_outside_of_their_bounds_stay_there():
    x = np.ones(3)
    opt = na.Adam(x, bounds=(0.0, 2.0))
    x[0] = 5.0  # the next step moves it
    new = loaded(opt)
    assert new.params.tolist() == [5.0, 1.0, 1.0]
    for one in (opt, new):
        one.step(np.ones(3))
    assert digest(new) == digest(opt)


def test_products_of_groups_need_the_same_order(path):
    falling = na.schedules.Polynomial(0.9, steps=9)
    options = {"beta1": falling, "groups": {"a": {"beta1": 0.5}, "b": {"beta1": 0.7}}}
    opt = trained({"a": np.ones(3), "b": np.ones(3)}, **options)
    new = loaded(opt)
    assert new.state["beta1_product"].tolist() == opt.state["beta1_product"].tolist()
    opt.save(path)
    with pytest.raises(CheckpointError, match=r"groups: running products .* another order"):
        trained({"b": np.ones(3), "a": np.ones(3)}, **options).load(path)
    trained({"a": np.ones(3), "b": np.ones(3)}, **options).load(path)


# --- what is refused -----------------------------------------------------------------------------


FITS = {"params": {"w": np.ones(6), "b": np.ones(2)}, "kind": na.Adam}
OTHERS = {
    "rule": ({"kind": na.SGD}, r"was saved by Adam, and this optimiser is SGD"),
    "defaults": ({"kind": na.AdamW}, r"decoupled: is False in the file, True here"),
    "names": (
        {"params": {"w": np.ones(6), "c": np.ones(2)}},
        "arrays p/c, p/w, the file p/b, p/w. Nest",
    ),
    "fewer": ({"params": {"w": np.ones(6)}}, "arrays p/w, the file p/b, p/w. Nest"),
    "one": ({"params": np.ones(6)}, "arrays p, the file p/b, p/w. Nest"),
    "shape": (
        {"params": {"w": np.ones((6, 1)), "b": np.ones(2)}},
        r"p/w: is float64 of shape \(6,\) in the file, float64 of shape \(6, 1\) in the optimiser",
    ),
    "dtype": ({"params": {"w": np.ones(6, "f4"), "b": np.ones(2, "f4")}}, "p/w: is float64 of"),
    "option": ({"nonfinite": "skip"}, "nonfinite: is 'propagate' in the file, 'skip' here"),
    "state": ({"amsgrad": True}, "amsgrad: is False in the file"),
    "bounds": ({"bounds": (0.0, 1.0)}, "bounds: is None in the file"),
    "average": ({"ema": 0.9}, "ema: is None in the file, 0.9 here, and cannot be changed"),
    "product": ({"beta1": falling}, "beta1: is 0.9 in the file, falling here, and cannot be"),
    "rates": ({"lr": {"w": 0.1, "b": 0.1}}, "lr: step sizes of their own"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_optimiser_is_refused_and_unchanged(path, case):
    options = copy.deepcopy({**FITS, **OTHERS[case][0]})
    trained().save(path)
    opt = options.pop("kind")(options.pop("params"), **options)
    before = digest(opt), repr(opt)
    with pytest.raises(CheckpointError, match=OTHERS[case][1]) as caught:
        opt.load(path)
    assert str(path) in str(caught.value)
    assert (digest(opt), repr(opt)) == before


def test_functions_are_refused_before_the_file_is_touched(path):
    trained().save(path)
    before = path.read_bytes()
    for options in ({"lr": falling}, {"groups": {"w": {"lr": falling}}}):
        with pytest.raises(TypeError, match=r"^(lr|groups\['w'\]\['lr'\]): a function .*falling"):
            trained(**options).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_arrays_that_were_replaced_or_cannot_be_written(path):
    opt = trained()
    opt.save(path)
    before = digest(opt)
    w = opt.params["w"]
    w.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['w'\]: .*read-only"):
        opt.load(path)
    w.flags.writeable = True
    opt.params["w"] = w.copy()
    for act in (opt.load, opt.save):
        with pytest.raises(ValueError, match=r"params\['w'\]: was replaced"):
            act(path)
    opt.params["w"] = w
    assert digest(opt) == before


def test_other_libraries_are_refused():
    with pytest.raises(TypeError, match="xp: expected the module numpy or cupy, got <module 'json"):
        na.load("x", xp=json)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dict", "list", "tuple", "array", "value", "schedule", "bounds", "x"]),
            inner,
            max_size=2,
        )
    ),
    max_leaves=4,
)


def places(node, at=()):
    """Every place in nested JSON."""
    yield at
    if isinstance(node, (dict, list)):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from places(child, (*at, key))


def changed(node, at, value):
    if not at:
        return value
    node = copy.copy(node)
    node[at[0]] = changed(node[at[0]], at[1:], value)
    return node


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """A path, an optimiser, and the content of its file."""
    path = tmp_path_factory.mktemp("forged") / "run.npz"
    opt = trained(lr=na.schedules.ReduceOnPlateau(0.1), clip_norm=1.0, groups={"b": {"eps": 1e-3}})
    opt.save(path)
    return path, opt, read(path, "optimizer")


@settings(relaxed, max_examples=100)
@given(data=st.data())
def test_whatever_a_file_says_it_is_loaded_whole_or_refused(forged, data):
    """Metadata of a stranger, with a right checksum: no other error, and nothing half done."""
    path, opt, content = forged
    meta = content.meta
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.sampled_from([at for at in places(meta) if at]))
        meta = changed(meta, at, data.draw(JSON))
    write(path, content._replace(meta=meta))
    before = digest(opt), repr(opt)
    try:
        opt.load(path)
    except CheckpointError:
        assert (digest(opt), repr(opt)) == before
    try:
        new = na.load(path)
    except CheckpointError:
        return
    assert new.t == meta["counters"]["t"]


def test_what_a_file_lacks_or_has_too_much_is_said(path):
    opt = trained()
    opt.save(path)
    content = read(path, "optimizer")
    assert content.meta["numadam"] == na.__version__
    before = digest(opt)

    def refused(says, **changes):
        write(path, content._replace(**changes))
        for load in (na.load, opt.load):
            with pytest.raises(CheckpointError, match=says):
                load(path)
        assert digest(opt) == before

    fewer = {name: array for name, array in content.arrays.items() if name != "v/w"}
    refused("state: the optimiser has .* and 3 more, the file .* and 2 more. Nest", arrays=fewer)
    more = {**content.arrays, "u/w": np.ones(6)}
    refused("state: the optimiser has .* and 3 more, the file .* and 4 more. Nest", arrays=more)
    named = {**content.meta, "schedules": [["Falling", {}]]}
    refused("there is no schedule 'Falling' in", meta=named)
    refused("rule of Adam is adam|was saved by Adam, and", meta={**content.meta, "rule": "sgd"})
    options = {**content.meta["options"], "foresight": 0.5}
    refused("foresight: is no option of Adam in this", meta={**content.meta, "options": options})


# --- one moment ----------------------------------------------------------------------------------


def test_an_exception_anywhere_in_a_load_leaves_all_or_nothing(path, monkeypatch):
    plateau = na.schedules.ReduceOnPlateau(0.1)
    frozen = {"ids": {"frozen": True}}

    def make(steps):
        params = {"w": np.ones(3), "b": np.ones(2), "ids": np.full(2, steps)}
        opt = na.Adam(params, lr=plateau if steps == 1 else copy.copy(plateau), groups=frozen)
        for _ in range(steps):
            opt.step({key: np.ones_like(p) for key, p in params.items()})
        return opt

    def everything():
        return digest(opt), repr(opt), plateau.value, opt._settings.control.tolist()

    new, opt, old = make(5), make(1), path.with_name("old")
    new.lr.set_state(value=0.01, best=1.0, waited=0, cooling=0)
    new.beta1, new.eps = 0.5, 1e-3
    new.save(path)
    opt.save(old)
    wholes, found = [], set()
    for file in (path, old):
        opt.load(file)
        wholes.append(repr(everything()))
    assert wholes[0] != wholes[1]
    # read and checked beforehand: 750 instead of 6,000 bytecodes
    contents = {file: read(file, "optimizer") for file in (path, old)}
    fits = {
        content.meta["counters"]["t"]: checkpoint.fit(opt, content) for content in contents.values()
    }
    monkeypatch.setattr(checkpoint, "read", lambda file, kind: contents[file])
    monkeypatch.setattr(checkpoint, "fit", lambda opt, content: fits[content.meta["counters"]["t"]])
    strikes = strike_everywhere(
        lambda: opt.load(old),
        lambda _: opt.load(path),
        lambda _: found.add(repr(everything())),
    )
    assert strikes > 100
    assert found == {*wholes}


def test_a_file_is_of_one_moment_while_another_thread_steps(path):
    opt, seen = na.SGD(np.zeros(20_000), lr=1.0), []
    with meanwhile(lambda: opt.step(np.ones(20_000))):
        for _ in range(20):
            opt.save(path)
            new = na.load(path)
            seen.append((new.t, np.unique(new.params).tolist()))
    assert all(values == [-t] for t, values in seen)


def test_a_load_is_whole_while_another_thread_steps(path):
    x = np.zeros(20_000)
    opt = na.SGD(x, lr=1.0)
    opt.save(path)
    with meanwhile(lambda: opt.load(path)):
        for _ in range(200):
            opt.step(np.ones(20_000))
            with opt._lock:
                assert np.unique(x).tolist() == [-opt.t]


def test_other_threads_and_layers_go_on_with_the_same_bits(path):
    """Loops of several threads, in a process with one, and with another layer."""
    code = f"""
        opt = na.load({str(path)!r})
        for k in range(3):
            opt.step(np.cos(opt.params * k))
        from tests.runs import digest
        print(opt.t, digest(opt))
    """
    rng = np.random.default_rng(0)
    opt = na.Adam(rng.standard_normal(100_000).astype("f4"), lr=0.01, clip_norm=1.0)
    for _ in range(3):
        opt.step(np.sin(opt.params))
    opt.save(path)
    for k in range(3):
        opt.step(np.cos(opt.params * k))
    for threads, layer in (("1", "workqueue"), ("2", "omp")):
        there = python(code, NUMBA_NUM_THREADS=threads, NUMBA_THREADING_LAYER=layer)
        assert there == f"6 {digest(opt)}"


def test_everything_at_once_in_the_middle_of_a_mean(path):
    options = {**copy.deepcopy(SINK), "eps": na.schedules.Polynomial(0.1, steps=30)}
    opt = na.Adam(tree_of(0), **copy.deepcopy(options))
    for k in range(5):
        opt.step(tree_of(k))
    opt.save(path)
    first = path.read_bytes()
    for twin in (na.load(path), load_into(na.Adam(tree_of(8), **options), opt)):
        twin.save(path)
        # loaded arrays are contiguous, those of the optimiser may be strided: the bytes are equal
        assert path.read_bytes() == first

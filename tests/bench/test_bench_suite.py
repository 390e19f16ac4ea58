"""The suite of asv: every case runs, on small arrays, and its sides do what they say."""

import json
import math
import re

import numpy as np
import pytest

from numadam._bench import measure, peers
from numadam.rules import CLASSES
from tests import extras
from tests.bench import LIMIT, load
from tests.variants import compile_nothing

common, step, start, options, minimize, gpu = (
    load(f"benchmarks.{name}") for name in ("common", "step", "start", "options", "minimize", "gpu")
)
run, machine = load("run"), load("machine")
CASES = run.cases_of((*run.TARGETS, *run.OTHERS))
#: Cases that compile or compute for seconds, one that builds for a minute, and those of a GPU.
#: Of the loops by hand one is compiled; test_bench.py compares all with numadam's steps.
NOT_HERE = re.compile(
    "first-step|workqueue|many-first|deepspeed|import|fits-scipy|right|gpu|hand-(?!options-10$)"
)
#: Rules and options that differ by a row of a table: three are measured, the others are made.
MADE = options.ByBytes.cases.keys() - {"clip-norm-10M"}


def marked(name):
    """The name, marked if the case compares with another library."""
    needs = CASES[name][0].needs
    return pytest.param(name, marks=[pytest.mark.peers(*needs)] if needs else [])


RUN = [name for name in CASES if name not in MADE and not NOT_HERE.match(name)]


@pytest.mark.parametrize("name", [*map(marked, RUN)])
def test_case_runs(name, tmp_path, monkeypatch):
    case, unit = CASES[name]
    assert re.fullmatch(r"[a-zA-Z0-9-]+", name)
    assert case.what
    assert case.target >= 0
    assert unit in ("ratio", "s", "B")
    monkeypatch.chdir(tmp_path)  # checkpoints lie there
    assert math.isfinite(taken(case).value)  # a difference of short times may be below 0


@pytest.mark.parametrize("name", sorted(MADE))
def test_case_of_a_rule_or_option_is_made(name, monkeypatch):
    compile_nothing(monkeypatch)
    measure_it = CASES[name][0].make()
    assert 0.4 < measure_it.keywords["expected"] < 3.0


#: Those that compare with no library on the same GPU: .ci/run emulates one.
ON_GPU = [name for name in CASES if name.startswith(("right", "gpu")) and not CASES[name][0].needs]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_case_of_a_gpu_runs(name):
    """Also on an emulated one: the option --emulate."""
    case, _ = CASES[name]
    value = taken(case, "gpu").value
    assert value > 0
    assert not name.startswith("right") or value <= case.target


def taken(case, mark="peers"):
    """A figure of the case, or a skip with the reason."""
    if why := case.missing():
        extras.stop(mark, why)
    try:
        return case.make()(1)
    except peers.Unavailable as reason:
        extras.stop(mark, str(reason))


def test_every_rule_and_option_has_a_case_on_each_device():
    rules = {rule.lower() for rule in CLASSES.values()}
    assert {f"rule-{rule}-10M" for rule in rules - {"adam"}} < CASES.keys()
    assert {f"{name}-10M" for name in options.OPTIONS} < CASES.keys()
    assert {f"right-rule-{rule}" for rule in rules} < CASES.keys()
    left_out = {"like-keras"}
    assert {f"right-{name}" for name in options.OPTIONS.keys() - left_out} < CASES.keys()


def test_a_case_without_a_gpu_says_so(monkeypatch):
    def none():
        raise RuntimeError("CuPy finds no GPU")

    monkeypatch.setattr(gpu, "require_gpu", none)
    for name in ("right-rule-adam", "gpu-host-1", "gpu-copy"):
        row = run.measured(name, *CASES[name], 1, 0.0)
        assert "value" not in row
        assert "GPU" in row["skipped"] or "not installed" in row["skipped"]
        assert f"skipped: {row['skipped']}" in run.line(run.cells(row))
    with pytest.raises(NotImplementedError):  # asv skips it
        gpu.Right().setup("right-rule-adam")


def test_asv_tracks_the_value_of_a_case(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotImplementedError, match="torch is not installed"):
        step.Peers().setup("torch-1M")
    assert "roofline-50M" not in step.Roofline.params
    tracked = minimize.Ratio()
    tracked.setup("calls-callback")
    assert tracked.track_ratio("calls-callback") == 1.0


def test_case_under_a_layer_is_measured_in_its_own_process(monkeypatch):
    monkeypatch.setenv(*LIMIT)
    figure = common.under_layer("workqueue", "step", "numpy-1000")()(1)
    assert figure.value > 0
    with pytest.raises(RuntimeError, match=r"(?s)a benchmark process failed: .*NameError"):
        common.run_python(["-c", "oops"])


# --- the program --------------------------------------------------------------------------------


def test_program_prints_a_table_and_writes_json(capsys, tmp_path):
    file = tmp_path / "figures.json"
    run.main(["--case", "numpy-1000", "--pairs", "1", "--json", str(file)])
    assert re.search(r"\| numpy-1000 +\| .* [nu]s +\| .* us ", capsys.readouterr().out)
    table = json.loads(file.read_text())
    assert table["machine"]["versions"]["numadam"]
    (row,) = table["rows"]
    assert row["case"] == "numpy-1000"
    assert row["value"] == pytest.approx(row["ours"] / row["theirs"], rel=0.5)


@pytest.mark.parametrize(
    ("words", "said"), [(["x"], "there is no file 'x'"), (["--case", "x"], "there is no 'x'")]
)
def test_program_refuses_what_is_not_there(words, said, capsys):
    with pytest.raises(SystemExit):
        run.main(words)
    assert said in capsys.readouterr().err


def test_large_case_is_left_out():
    measured = run.measured("roofline-50M", *CASES["roofline-50M"], 1, 0.0)
    assert "NUMADAM_BENCH_LARGE=1" in measured["skipped"] or "GiB" in measured["skipped"]


def test_busy_figure_is_taken_again_and_the_quietest_counts(monkeypatch):
    shares = iter([0.9, 0.5, 0.7, 0.0])
    monkeypatch.setattr(measure.Load, "busy", lambda self: next(shares))
    monkeypatch.setattr(machine, "wait_until_quiet", lambda end: None)
    figures = iter("abcd")
    assert machine.quietest(lambda: next(figures), 60.0) == ("d", 0.0)


# --- the sides ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "given", "each"),
    [
        ("Adam", {}, 28),  # reads p, g, m, v, writes p, m, v
        ("SGD", {}, 12),
        ("SGD", {"momentum": 0.9}, 20),
        ("RMSprop", {"centered": True, "momentum": 0.9}, 36),
        ("Adam", {"amsgrad": True}, 36),
        ("Adam", {"lr": options.rates}, 32),
        ("Adam", {"bounds": (-3.0, 3.0)}, 28),
        ("Adam", {"bounds": options.box}, 36),
        ("AdamW", {"clip_norm": 1.0, "ema": 0.9}, 40),  # + g once more, the average in and out
        # the norm reads g, p and both bounds once more
        ("Adam", {"bounds": options.box, "nonfinite": "skip"}, 52),
        ("Adam", {"dtype": "float64"}, 56),
        ("Adam", {"dtype": "complex64"}, 28),
        ("Adam", {"dtype": "complex64", "complex_form": "modulus"}, 24),
    ],
)
def test_traffic_is_what_the_arrays_say(rule, given, each, monkeypatch):
    compile_nothing(monkeypatch)
    optimizer, _ = options.prepared(100, rule, given)
    assert options.traffic(optimizer) == each * 100


@pytest.mark.peers("torch")
def test_usual_step_is_the_same_in_torch():
    import torch

    theirs = step.usual_of_torch(*peers.tensors([100]))
    ours = peers.step(100, rule="AdamW", clip_norm=1.0, ema=0.999)
    for _ in range(5):
        ours()
    optimizer = ours.func.__self__
    names = zip(theirs.__code__.co_freevars, theirs.__closure__, strict=True)
    their = {name: cell.cell_contents for name, cell in names}
    for _ in range(5):
        # they clip the gradient in place, and then clip it again
        their["tensor"].grad = torch.from_numpy(ours.args[0].copy())
        theirs()
    got = (optimizer.params, optimizer.averaged)
    for mine, other in zip(got, (their["tensor"], their["average"]), strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=1e-5, atol=1e-7)

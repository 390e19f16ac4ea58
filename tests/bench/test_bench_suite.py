"""The suite of asv: every case runs, on small arrays, in the sweep; its sides do what they say.

Pages and pictures of the benchmarks: what is written and drawn. Nothing is timed.
"""

import json
import math
import re

import pytest

from numadam._bench import peers
from numadam.rules import CLASSES
from tests import extras
from tests.bench import ROOT, load
from tests.variants import compile_nothing

step, options, run = map(load, ("benchmarks.step", "benchmarks.options", "run"))
driver, history, speed = map(load, ("history_driver", "history", "speed"))
CASES = run.cases_of((*run.TARGETS, *run.OTHERS))
#: Cases that compile or compute for seconds, one that builds for a minute, and those of a GPU.
#: Of the loops by hand one is compiled; test_bench.py compares all with numadam's steps.
NOT_HERE = re.compile(
    "first-step|workqueue|many-first|deepspeed|import|fits-scipy|right|gpu|hand-(?!options-10$)"
)
#: Rules and options that differ by a row of a table: three are measured, the others are made.
MADE = options.ByBytes.cases.keys() - {"clip-norm-10M"}


def marked(name):
    """The name, marked if the case compares with another library; usual is one alone."""
    needs = CASES[name][0].needs
    marks = [pytest.mark.peers(*needs)] if needs else []
    return pytest.param(name, marks=marks + [pytest.mark.sweep] * (name != "numpy-1000"))


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


def test_pages_and_picture_are_those_of_the_data():
    found = json.loads(speed.DATA.read_text())
    for page, between in speed.pages(found).items():
        assert page.read_text(encoding="utf-8") == speed.filled(page, between), page.name
    picture = speed.PICTURE.read_text(encoding="utf-8")
    assert re.search(rf">{speed.digest(found)}<", picture), "python asv_benchmarks/speed.py --draw"
    assert len(picture) < 60_000
    # peers that spin lose most on a busy machine: the picture would flatter numadam
    quiet = "python asv_benchmarks/speed.py --wait 60, alone on a machine"
    assert "Provisional" not in speed.caption(found), quiet


def test_the_recorded_history_fits_its_picture():
    table = json.loads((ROOT / "docs" / "development" / "benchmarks" / "history.json").read_text())
    assert set(table["groups"]) == set(driver.BENCHMARKS)
    for one in table["commits"]:
        assert set(one["values"]) | set(one["missing"]) == set(table["groups"])
        assert all(value > 0 for value in one["values"].values())

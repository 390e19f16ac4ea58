"""Pages and pictures of the benchmarks: what is chosen, written and drawn. Nothing is timed.

Speed beside other libraries (speed.py), over commits (history.py), of several processors
(processors.py), and problems that are solved (asv_benchmarks/problems.py).
"""

import json
import math
import re
import subprocess

import numpy as np
import pytest

from tests import extras
from tests.bench import ROOT, load

driver, history, problems, processors, run, speed = map(
    load, ("history_driver", "history", "problems", "processors", "run", "speed")
)
Job, Outcome = problems.Job, problems.Outcome
CASES = run.cases_of(run.TARGETS)
ABOUT = {
    "processor": "P", "family": "25", "model": "17", "cores": 2, "caches": {"L1d": "32K"},
    "date": "2026-01-01", "system": "Linux", "threads": 2, "layer": "tbb", "gpu": "none found",
    "versions": {"numpy": "2.4", "torch": "2.13"},
}  # fmt: skip

# --- speed --------------------------------------------------------------------------------------


def sizes(*rows, busy=0.01):
    """Data of the picture: elements and seconds of each row."""
    memory = {speed.MEMORY: 2e-3}
    figures = [{"elements": n, "seconds": s | memory, "busy": busy} for n, s in rows]
    return {"machine": ABOUT, "sizes": figures}


SMALL = (1000, {"numadam": 1e-6, "NumPy": 1e-5, "torch": 2e-5})
BOTH = sizes(SMALL, (2_000_000, {"numadam": 2.2e-3, "NumPy": 1e-2, "torch": 2e-3}))


def test_all_sides_take_turns_on_every_size():
    sides = {name: speed.SIDES[name] for name in (speed.OURS, "NumPy", speed.MEMORY)}
    found = speed.measured(10, sides, 0.0, rounds=1)
    assert found["seconds"].keys() == set(sides)
    assert all(time > 0 for time in found["seconds"].values())
    assert found["ratio"].keys() == {"NumPy", speed.MEMORY}


def test_the_numpy_lines_are_adam():
    side = speed.numpy_in_place(5)
    cells = dict(zip(side.__code__.co_freevars, side.__closure__, strict=True))
    before = cells["p"].cell_contents.copy()
    side()
    moved = 1e-3 * np.sign(cells["g"].cell_contents)
    np.testing.assert_allclose(before - cells["p"].cell_contents, moved, rtol=1e-3)


def test_findings_name_the_sizes_at_which_another_is_faster():
    text = speed.findings(BOTH)
    assert "at every size, except at 2,000,000 (torch) parameters." in text
    assert "1.10 of the time of the memory traffic" in text
    assert "at 28 GB/s" in text
    assert "(numpy 2.4, torch 2.13)" in text
    assert "the fastest of these at every size." in speed.findings(sizes(SMALL))


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


# --- commits ------------------------------------------------------------------------------------

RECORDS = [
    {
        "commit": f"{k}" * 40,
        "date": "2026-01-01",
        "values": {"step-1M": value} if k else {},
        "missing": {} if k else {"step-1M": "no Adam yet"},
        "busy": 0.0,
    }
    for k, value in enumerate([0.0, 1.0, 1.1, 1.0, 1.5])
]


def test_commits_are_spread_over_the_package_s_life():
    log = ("log", "--first-parent", "--format=%H", "--", "numadam")
    try:
        found = history.git(*log).decode().split()
    except (OSError, subprocess.CalledProcessError):
        found = []
    extras.need_machine(len(found) > 3, "git, or no checkout with its history")
    chosen = history.commits(4)
    assert len({one["commit"] for one in chosen}) == 4
    assert chosen[-1]["commit"] == found[0]
    assert history.commits(1_000_000)[0] == chosen[0]


def test_a_slower_commit_is_named():
    assert history.slower(RECORDS) == ["step-1M: 1.5, median before 1"]
    assert history.slower(RECORDS[:-1]) == []
    assert history.slower(RECORDS[:1]) == []


def test_the_driver_measures_what_there_is_and_says_what_is_not(monkeypatch):
    def later(pairs):
        raise AttributeError("module 'numadam' has no attribute 'minimize'")

    monkeypatch.setitem(driver.BENCHMARKS, "later", ("NumPy", later))
    answer = driver.run(["step-1000", "later"], 1)
    assert 0 < answer["values"]["step-1000"] < 10
    assert answer["missing"] == {"later": "module 'numadam' has no attribute 'minimize'"}


def test_the_recorded_history_fits_its_picture():
    table = json.loads((ROOT / "docs" / "development" / "benchmarks" / "history.json").read_text())
    assert set(table["groups"]) == set(driver.BENCHMARKS)
    for one in table["commits"]:
        assert set(one["values"]) | set(one["missing"]) == set(table["groups"])
        assert all(value > 0 for value in one["values"].values())


# --- processors ---------------------------------------------------------------------------------


def row(name, value=None, ours=None, busy=0.0):
    """The figure of a case, or the reason why there is none."""
    case, unit = CASES[name]
    figure = {"skipped": "not here"} if value is None else {"value": value, "ours": ours}
    met = value is None or value <= case.target
    return {"case": name, "unit": unit, **figure, "met": met, "busy": busy}


def test_figures_go_into_the_column_of_their_processor():
    columns = [{"title": "Q", "about": "q", "cases": {"torch-1M": "0.9"}}]
    found = [
        row("torch-1M", 0.5, 1.0),
        row("torch-10k", 0.5, 1.0, busy=0.5),
        row("first-step-warm", 0.3, 0.6),
        row("deepspeed-1M"),
    ]
    processors.add(columns, {"machine": ABOUT, "rows": found})
    mine, other = columns
    assert mine["about"].startswith("2026-01-01, P (family 25, model 17), 2 cores, L1d 32K")
    assert mine["cases"] == {
        "torch-1M": "0.500",
        "torch-10k": "**0.500 ?**",
        "first-step-warm": "**0.300 (600 ms)**",
        "deepspeed-1M": "not taken",
    }
    text = processors.tables(columns)
    assert "| torch-1M | a step of 1M / torch fused | 0.65 | 0.500 | 0.9 |" in text
    assert all(f"| {name} |" in text for name in CASES)
    assert (mine["title"], other["title"]) == ("P, family 25", "Q")
    processors.add(columns, {"machine": {**ABOUT, "family": "26"}, "rows": found})
    assert [column["title"] for column in columns] == ["P, family 26", "P, family 25", "Q"]


def test_tables_of_the_page_are_made_of_the_data():
    text = processors.tables(json.loads(processors.DATA.read_text()))
    assert text.count("| --- |") > 1
    page = (processors.DOCS / "processors.md").read_text(encoding="utf-8")
    assert "```{benchmark-tables} processors\n```" in page


# --- problems -----------------------------------------------------------------------------------

JOB = Job("more_wild", "rosenbrock_good_start", "adam-0.01", 50)


def outcome(f, f_opt=2.0):
    return Outcome(JOB, size=2, f0=12.0, f_opt=f_opt, f=f, nit=1, nfev=2, status=1, seconds=0.0)


def test_solved_is_the_share_that_is_left():
    assert outcome(2.001).left == pytest.approx(1e-4)
    assert outcome(2.0009).solved(1e-4)
    assert not outcome(2.0011).solved(1e-4)
    assert outcome(1.0).solved(1e-7)  # better than the optimum that is given
    assert not outcome(math.nan).solved(1e-1)
    assert not outcome(2.0, f_opt=math.nan).solved(1e-1)


def test_problems_without_a_known_optimum_do_not_count():
    group = [outcome(2.0), outcome(2.5), outcome(2.0, f_opt=math.nan), outcome(math.nan)]
    assert problems.shares(group) == "| 3 | 2 | 1 | 1 | 1 | 1 |"
    assert problems.unsolved(group, 1e-1) == "rosenbrock_good_start (nan)"

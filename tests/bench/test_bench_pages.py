"""Pages and pictures of the benchmarks: what is chosen, written and drawn. Nothing is timed.

Speed beside other libraries (speed.py), over commits (history.py), of several processors
(processors.py), and problems that are solved (tests/campaigns/problems.py).
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numadam
from tests.bench import ROOT, load
from tests.campaigns.problems import Job, Outcome, shares, unsolved

driver, history, processors, run, speed = map(
    load, ("history_driver", "history", "processors", "run", "speed")
)
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


def test_captions_say_what_the_data_say():
    text = speed.caption(BOTH)
    assert "(P, 2 threads, 2026-01-01)" in text
    assert "1,000 parameters: numadam 1 us, NumPy 10 us, torch 20 us." in text
    assert "Provisional" not in text
    loud = speed.caption(sizes((1000, {"numadam": 2e-5, "NumPy": 1e-5}), busy=0.5))
    assert "1,000 parameters: NumPy 10 us, numadam 20 us. Provisional" in loud
    assert "up to 50% of the machine" in loud


def test_findings_name_the_sizes_at_which_another_is_faster():
    text = speed.findings(BOTH)
    assert "at every size, except at 2,000,000 (torch) parameters." in text
    assert "1.10 of the time of the memory traffic" in text
    assert "at 28 GB/s" in text
    assert "(numpy 2.4, torch 2.13)" in text
    assert "the fastest of these at every size." in speed.findings(sizes(SMALL))


def test_picture_shows_all_sides(tmp_path):
    path = tmp_path / "speed.svg"
    speed.draw(BOTH, path)
    text = path.read_text()
    assert all(words in text for words in ("numadam", "NumPy, in-place lines", "memory alone"))
    assert speed.digest(BOTH) in text
    assert speed.digest(BOTH) != speed.digest(sizes(SMALL))


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
        pytest.skip("no checkout with git")
    if len(found) < 4:
        pytest.skip("a shallow checkout")
    chosen = history.commits(4)
    assert len({one["commit"] for one in chosen}) == 4
    assert chosen[-1]["commit"] == found[0]
    assert history.commits(1_000_000)[0] == chosen[0]


def test_a_slower_commit_is_named():
    assert history.slower(RECORDS) == ["step-1M: 1.5, median before 1"]
    assert history.slower(RECORDS[:-1]) == []
    assert history.slower(RECORDS[:1]) == []


def test_missing_points_are_gaps_in_the_picture(tmp_path):
    table = {"machine": ABOUT, "groups": {"step-1M": "roofline"}, "commits": RECORDS}
    history.draw(table, tmp_path / "history.png")
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_the_driver_measures_what_there_is_and_says_what_is_not(monkeypatch):
    def later(pairs):
        raise AttributeError("module 'numadam' has no attribute 'minimize'")

    monkeypatch.setitem(driver.BENCHMARKS, "later", ("NumPy", later))
    answer = driver.run(["step-1000", "later"], 1)
    assert 0 < answer["values"]["step-1000"] < 10
    assert answer["missing"] == {"later": "module 'numadam' has no attribute 'minimize'"}


def test_the_driver_says_which_package_it_measured():
    words = json.dumps({"names": ["adam_update-1000"], "pairs": 1})
    script = str(ROOT / "asv_benchmarks" / "history_driver.py")
    done = subprocess.run(
        [sys.executable, script, words], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["from"] == str(Path(numadam.__file__).resolve().parent)
    assert list(answer["values"]) == ["adam_update-1000"]


def test_a_commit_that_cannot_run_is_left_out_with_the_reason(tmp_path):
    package = tmp_path / "numadam"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('half of a change')\n")
    answer = history.measure({"commit": "0" * 40}, tmp_path, ["step-1000"], 1)
    assert answer["values"] == {}
    assert answer["missing"] == {"step-1000": "ImportError: half of a change"}


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
    assert shares(group) == "| 3 | 2 | 1 | 1 | 1 | 1 |"
    assert unsolved(group, 1e-1) == "rosenbrock_good_start (nan)"

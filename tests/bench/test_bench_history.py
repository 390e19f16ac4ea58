"""The recorded history over commits: what it chooses, merges, names and draws. Nothing is timed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.scripts import ROOT, load

history, driver = load("history"), load("history_driver")

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
    try:
        all_of_it = len(
            history.git("log", "--first-parent", "--format=%H", "--", "numadam").split()
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no checkout with git")
    if all_of_it < 4:
        pytest.skip("a shallow checkout")
    chosen = history.commits(4)
    newest = history.git("log", "-1", "--first-parent", "--format=%H", "--", "numadam")
    assert len({one["commit"] for one in chosen}) == 4
    assert chosen[-1]["commit"] == newest.decode().strip()
    assert history.commits(1_000_000)[0] == chosen[0]


def test_a_slower_commit_is_named():
    assert history.slower(RECORDS) == ["step-1M: 1.5, median before 1"]
    assert history.slower(RECORDS[:-1]) == []
    assert history.slower(RECORDS[:1]) == []


def test_turns_are_merged():
    answers = [
        {"values": {"a": value}, "missing": {"b": "why"}, "busy": busy}
        for value, busy in ((1.0, 0.0), (2.0, 0.3), (9.0, None))
    ]
    assert history.merged(answers) == {"values": {"a": 2.0}, "missing": {"b": "why"}, "busy": 0.3}


def test_missing_points_are_gaps_in_the_picture(tmp_path):
    about = {"processor": "P", "threads": 2, "layer": "tbb"}
    table = {"machine": about, "groups": {"step-1M": "roofline"}, "commits": RECORDS}
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
        [sys.executable, script, words], capture_output=True, text=True, timeout=120, check=True
    )
    answer = json.loads(done.stdout)
    import numadam

    assert answer["from"] == str(Path(numadam.__file__).resolve().parent)
    assert list(answer["values"]) == ["adam_update-1000"]


def test_the_recorded_history_fits_its_picture():
    table = json.loads((ROOT / "docs" / "benchmarks" / "history.json").read_text())
    assert set(table["groups"]) == set(driver.BENCHMARKS)
    for one in table["commits"]:
        assert set(one["values"]) | set(one["missing"]) == set(table["groups"])
        assert all(value > 0 for value in one["values"].values())
    assert (ROOT / "docs" / "benchmarks" / "history.png").exists()


def test_a_commit_that_cannot_run_is_left_out_with_the_reason(tmp_path):
    package = tmp_path / "numadam"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('half of a change')\n")
    answer = history.measure({"commit": "0" * 40}, tmp_path, ["step-1000"], 1)
    assert answer["values"] == {}
    assert answer["missing"] == {"step-1000": "ImportError: half of a change"}
    assert history.merged([answer])["values"] == {}

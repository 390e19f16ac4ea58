"""`python -m numadam bench`: its table, its JSON, and what it refuses."""

import argparse
import json
import re

from numadam.bench import add_arguments, cli, run


def options(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def test_command_prints_a_table_and_writes_json(capsys, tmp_path):
    file = tmp_path / "figures.json"
    assert run(options("--case", "numpy-1000", "--quick", "--json", str(file))) == 0
    out = capsys.readouterr().out
    assert "| case " in out
    assert re.search(r"\| numpy-1000 +\| .* [nu]s +\| .* us ", out)
    (table,) = json.loads(file.read_text())
    assert table["machine"]["versions"]["numadam"]
    (row,) = table["rows"]
    assert row["case"] == "numpy-1000"
    assert row["value"] > 0


def test_command_refuses_an_unknown_case(capsys):
    assert run(options("--case", "x")) == 2
    assert capsys.readouterr().err.startswith("case: there is no 'x'.")


def test_command_says_where_it_cannot_write(capsys, tmp_path):
    file = tmp_path / "none" / "figures.json"
    assert run(options("--case", "memory-net", "--quick", "--json", str(file))) == 1
    assert "--json: cannot write" in capsys.readouterr().err


def test_command_runs_under_a_layer(capfd, tmp_path):
    file = tmp_path / "figures.json"
    words = ("--case", "memory-net", "--quick", "--layer", "workqueue", "--json", str(file))
    assert run(options(*words)) == 0
    assert "## workqueue" in capfd.readouterr().out
    (table,) = json.loads(file.read_text())
    assert table["machine"]["layer"] == "workqueue"


def test_layer_that_is_not_there_is_skipped(capfd, monkeypatch):
    monkeypatch.setattr(cli, "_PROBE", "print('omp')")
    assert run(options("--size", "1", "--layer", "tbb")) == 1
    assert "skipped: Numba has no threading layer tbb here" in capfd.readouterr().out

"""`python -m numadam bench`: its table, its JSON, and what it refuses."""

import argparse
import json
import os
import re

import pytest

from numadam.bench import add_arguments, cli, gpu_peers, noise, peers, run
from numadam.bench.case import Case
from numadam.bench.measure import Figure


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
    assert capsys.readouterr().err.startswith("--case: there is no 'x'.")


def test_command_says_where_it_cannot_write_before_it_measures(capsys, tmp_path):
    for file in (tmp_path / "none" / "figures.json", tmp_path):
        assert run(options("--case", "memory-net", "--quick", "--json", str(file))) == 2
        out, err = capsys.readouterr()
        assert err.startswith(f"--json: cannot write {file}: ")
        assert err.count("\n") == 1
        assert not out
    file = tmp_path / "figures.json"
    assert cli._check_json(file) == ""
    assert not file.exists()  # an interrupted run leaves no empty file
    file.write_text("[]")
    assert cli._check_json(file) == ""
    assert file.read_text() == "[]"


@pytest.fixture
def one_case(monkeypatch):
    """Runs a case that takes no time, while others use this share of the machine."""

    def run_it(load, share, *words):
        monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(noise.Load, "busy", lambda self: share)
        case = Case("x", "what", 1.0, lambda: lambda pairs: Figure(1.0))
        cli._run_here(options("--quick", *words), [case])

    return run_it


@pytest.mark.parametrize(
    ("load", "share", "said"),
    [
        (4.0, 0.0, ""),
        (4.1, 0.9, "The machine is busy: a load of 4.1 on 8 cores"),
        (0.5, 0.06, "The machine was busy: other programs used up to 6% of it"),
        (0.5, None, ""),
    ],
)
def test_busy_machine_is_named_in_one_sentence(one_case, capsys, load, share, said):
    one_case(load, share)
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == bool(said)


def test_a_busy_start_is_not_named_to_who_waits(one_case, capsys):
    one_case(4.1, 0.0, "--wait", "1e-3")
    assert capsys.readouterr().err == ""


def test_table_of_the_gpu_needs_one(capsys, monkeypatch):
    def none():
        raise peers.Unavailable("no GPU")

    monkeypatch.setattr(gpu_peers, "need_gpu", none)
    assert run(options("--gpu")) == 1
    out, err = capsys.readouterr()
    assert err == "--gpu: no GPU\n"
    assert not out


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

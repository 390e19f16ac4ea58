"""The command line: what it answers, and that its errors are one sentence."""

import subprocess
import sys

import pytest

import numadam
from numadam.cli import main


def run(*words, code=0):
    """Run ``python -m numadam`` in a fresh process; return its two outputs."""
    command = [sys.executable, "-m", "numadam", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_importing_the_command_line_loads_no_numba():
    code = "import sys, numadam.cli; numadam.cli.parser(); print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"


def test_help_shows_examples():
    out, err = run("--help")
    assert "python -m numadam demo quadratic" in out
    assert not err


def test_nothing_asked_for_shows_the_help(capsys):
    assert main([]) == 2
    assert "examples:" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"numadam {numadam.__version__}\n"


def test_info_names_what_a_bug_report_needs():
    out, err = run("info")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts["numadam"] == numadam.__version__
    assert {"Python", "numpy", "numba", "scipy", "CPU", "GPU", "threads"} <= set(facts)
    assert "threading layer" in out
    assert "cache folder" in out
    assert not err


def test_quadratic():
    out, err = run("demo", "quadratic")
    assert "start: loss" in out
    assert "steps" in out
    assert not err


@pytest.mark.parametrize("command", ["demo", "bench", "info"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "cubic"], "invalid choice: 'cubic'"),
        (["demo", "--epochs", "0"], "whole number of at least 1, got '0'"),
        (["demo", "--epochs", "few"], "got 'few'"),
        (["demo", "--output", "no/such/folder/x.png"], "a folder that exists"),
        (["demo", "--output", "curves.jpg"], "NAME.png"),
        (["demo", "quadratic", "--seed", "1"], "--seed belongs to the demo mlp"),
        (["dance"], "invalid choice: 'dance'"),
        (["info", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_misuse_is_one_sentence(words, said, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert not out


def test_misuse_has_no_traceback_in_a_process():
    out, err = run("demo", "cubic", code=2)
    assert err.count("\n") == 1
    assert not out


def test_a_failure_is_one_sentence(monkeypatch, capsys, tmp_path):
    from numadam.demos import mlp

    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(mlp, "main", full)
    assert main(["demo", "--output", str(tmp_path / "x.png")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_interrupting_is_no_error_report(monkeypatch, capsys):
    from numadam.demos import quadratic

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(quadratic, "main", interrupt)
    assert main(["demo", "quadratic"]) == 130
    assert not capsys.readouterr().err

"""The command line: what it answers, and that its errors are one sentence."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import numadam
from numadam import cli, info
from numadam._jit import cache
from numadam.cli import main
from numadam.demos import DEMOS


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
    assert "python -m numadam demo --list" in out
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


def test_info_names_what_changes_the_compiled_code(monkeypatch):
    """A checkout's commit, the processor of LLVM, and variables."""
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "0")
    monkeypatch.setenv("HOME_OF_NOBODY", "1")
    facts = info.facts()
    assert "NUMBA_BOUNDSCHECK=0" in facts["environment"]
    assert "HOME_OF_NOBODY" not in facts["environment"]
    assert info.llvm_cpu() == facts["compiled for"]
    assert Path(facts["installed in"]) == Path(numadam.__file__).parents[1]
    if shutil.which("git") and (Path(facts["installed in"]) / ".git").exists():
        assert re.match("[0-9a-f]{7}", facts["commit"])


def test_info_says_why_nothing_is_cached(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    with cache.only_in(folder):
        line = info.facts()["cache folder"]
    assert line == f"cannot be written: {folder / 'numadam'}: Not a directory"


def test_info_says_why_numba_does_not_import(monkeypatch):
    """A NumPy that Numba does not know yet, say: what the report is about."""
    monkeypatch.setitem(sys.modules, "numba", None)
    facts = info.facts()
    assert facts["threads"].startswith("unknown, as Numba does not import: ")
    assert {"numpy", "numba", "CPU", "GPU"} <= set(facts)


def test_a_layer_that_numba_does_not_know_is_one_sentence():
    """`info` shows it, since that is what is to be reported."""
    command = [sys.executable, "-m", "numadam"]
    env = {**os.environ, "NUMBA_THREADING_LAYER": "foo"}
    shown, refused = (
        subprocess.run(
            command + words, env=env, capture_output=True, text=True, timeout=240, check=False
        )
        for words in (["info"], ["bench", "--size", "1", "--force"])
    )
    assert re.search("threading layer +none: .*'foo'", shown.stdout)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert refused.stderr.startswith("python -m numadam bench: error: NUMBA_THREADING_LAYER: ")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("there", [True, False])
def test_info_names_the_mpi_of_mpi4py(monkeypatch, there):
    """In a line of its own, and none where there is no mpi4py."""
    from numadam._mpi import transport

    monkeypatch.setattr(transport, "describe", lambda: "MPICH 5")
    monkeypatch.setattr(info.importlib.util, "find_spec", lambda name: there or None)
    assert info.facts().get("MPI") == ("MPICH 5" if there else None)


def test_info_does_not_start_mpi():
    code = "import sys; from numadam import info; info.facts(); print('mpi4py' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "False\n"


def test_a_demo_in_a_process(tmp_path):
    path = tmp_path / "x.png"
    out, err = run("demo", "decays", "--side", "16", "--output", str(path))
    assert "256 fits" in out
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not err  # no bar, since nobody watches


def test_the_console_script_is_the_same_command():
    (script,) = entry_points(group="console_scripts", name="numadam")
    assert script.load() is main


@pytest.mark.parametrize("name", DEMOS)
def test_every_demo_describes_itself(name, capsys):
    assert main(["demo", name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: python -m numadam demo {name}" in out
    assert f"  python -m numadam demo {name}" in out.split("examples:")[1]
    assert "--output PNG" in out
    assert "--seed N" in out


def test_the_help_of_demo_lists_them_and_imports_none(capsys):
    assert main(["demo", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for name, line in DEMOS.items():
        assert f"{name} {line}" in out


def test_demos_are_listed_a_line_each(capsys):
    assert main(["demo", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [list(row) for row in DEMOS.items()]


@pytest.mark.parametrize("command", ["demo", "bench", "compile", "info"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize(
    "words", [[], ["demo"], ["bench"], ["compile"], ["info"], *(["demo", name] for name in DEMOS)]
)
def test_help_fits_the_terminal(words, columns, monkeypatch, capsys):
    """But for the examples, which are lines to be copied."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*words, "--help"]) == 0
    text, _, rest = capsys.readouterr().out.partition("examples:")
    examples, _, end = rest.partition("\n\n")
    assert max(map(len, examples.splitlines()), default=0) < 80
    lines = text.splitlines() + end.splitlines()
    if columns < 80:  # argparse breaks no list of choices
        lines = [line for line in lines if not line.startswith((" ", "usage:"))]
    assert max(map(len, lines)) < columns, max(lines, key=len)
    assert "``" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "cubic"], "invalid choice: 'cubic'"),
        (["demo", "--epochs", "0"], "whole number of at least 1, got '0'"),
        (["demo", "--epochs", "few"], "got 'few'"),
        (["demo", "--output", "no/such/x.png"], "--output: cannot write no/such/x.png: No such"),
        (["demo", "--output", "curves.jpg"], "--output: expected NAME.png"),
        (["demo", "decays", "--epochs", "1"], "demo decays: error: unrecognized"),
        (["demo", "--epochs", "2", "decays"], "demo mlp: error: unrecognized arguments: decays"),
        (["demo", "lstm"], "invalid choice: 'lstm'"),
        (["demo", "mlp", "--bounds", "1", "-1"], "bounds: expected finite MIN < MAX"),
        (["demo", "mlp", "--bounds", "1"], "expected 2 arguments"),
        (["demo", "mlp", "--loss", "hinge"], "invalid choice: 'hinge'"),
        (["demo", "mlp", "--l2", "-1"], "expected a number above 0, got '-1'"),
        (["demo", "mlp", "--validation", "1797"], "expected 1 to 1796 digits, got 1797"),
        (["demo", "mlp", "--stop-accuracy", "95"], "a share of 1, as 0.93, got 95"),
        (["demo", "decays", "--noise", "nan"], "expected a number above 0, got 'nan'"),
        (["demo", "decays", "--seed", "-1"], "whole number of at least 0, got '-1'"),
        (["demo", "decays", "--side", "100"], "expected a divisor of 512, got 100"),
        (["dance"], "invalid choice: 'dance'"),
        (["dmeo"], "did you mean demo?"),
        (["compile", "--clipnorm", "1"], "did you mean --clip-norm or"),
        (["demo", "--list", "extra"], "invalid choice: 'extra'"),
        (["demo", "--list", "decays"], "--list: leave out decays"),
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
    from numadam.demos import decays

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(decays, "main", interrupt)
    assert main(["demo", "decays"]) == 130
    monkeypatch.setattr(cli, "parser", interrupt)  # while Numba is imported
    assert main(["compile"]) == 130
    assert not capsys.readouterr().err

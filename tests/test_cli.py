"""The command line: what it answers, its errors in one sentence, Ctrl-C, and a closed output."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import numadam
from numadam import _cli as cli
from numadam import _info as info
from numadam._cli import main
from numadam._demos import mlp
from tests import extras
from tests.processes import ROOT, python


def command(*words, stdout=subprocess.PIPE, **env):
    """``python -m numadam`` in a fresh process, after it has ended."""
    return subprocess.run(
        [sys.executable, "-m", "numadam", *words],
        env={**os.environ, **env},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def test_nothing_asked_for_shows_the_help(capsys):
    assert main([]) == 2
    assert "python -m numadam demo " in capsys.readouterr().out.split("examples:")[1]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"numadam {numadam.__version__}\n"


def test_info_names_what_a_bug_report_needs():
    done = command("info")
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert facts["numadam"] == numadam.__version__
    assert {"Python", "numpy", "numba", "scipy", "CPU", "GPU", "threads"} <= set(facts)
    assert "threading layer" in done.stdout
    assert "cache folder" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_info_says_why_numba_does_not_import(monkeypatch):
    """A NumPy that Numba does not know yet, say: what the report is about."""
    monkeypatch.setitem(sys.modules, "numba", None)
    facts = info.facts()
    assert facts["threads"].startswith("unknown, as Numba does not import: ")
    assert {"numpy", "numba", "CPU", "GPU"} <= set(facts)


def test_a_layer_that_numba_does_not_know_is_one_sentence():
    """`info` shows it, since that is what is to be reported."""
    layer = {"NUMBA_THREADING_LAYER": "foo"}
    shown, refused = command("info", **layer), command("bench", "--size", "1", "--force", **layer)
    assert re.search("threading layer +none: .*'foo'", shown.stdout)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert refused.stderr.startswith("python -m numadam bench: error: NUMBA_THREADING_LAYER: ")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


def test_no_bar_is_shown_where_nobody_watches(tmp_path, capsys):
    path = tmp_path / "x.png"
    assert main(["demo", "--epochs", "2", "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "epoch  2" in out
    assert not err
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--epochs", "0"], "whole number of at least 1, got '0'"),
        (["demo", "--output", "no/such/x.png"], "--output: cannot write no/such/x.png: No such"),
        (["demo", "--output", "curves.jpg"], "--output: expected NAME.png"),
        (["demo", "--epochs", "2", "decays"], "demo: error: unrecognized arguments: decays"),
        (["demo", "--bounds", "1", "-1"], "bounds: expected finite MIN < MAX"),
        (["demo", "--l2", "-1"], "expected a number above 0, got '-1'"),
        (["demo", "--stop-accuracy", "95"], "a share of 1, as 0.93, got 95"),
        (["demo", "--seed", "-1"], "whole number of at least 0, got '-1'"),
        (["dance"], "invalid choice: 'dance'"),
        (["dmeo"], "did you mean demo?"),
    ],
)
def test_misuse_is_one_sentence(words, said, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert not out


def test_a_failure_is_one_sentence(monkeypatch, capsys, tmp_path):
    def full(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr(mlp, "main", full)
    assert main(["demo", "--output", str(tmp_path / "x.png")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_interrupting_is_no_error_report(monkeypatch, capsys):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(mlp, "main", interrupt)
    assert main(["demo"]) == 130
    monkeypatch.setattr(cli, "parser", interrupt)  # while Numba is imported
    assert main(["bench"]) == 130
    assert not capsys.readouterr().err


# --- as a process -------------------------------------------------------------------------------

#: As a user has it: what is written is kept until the end.
BUFFERED = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
BEGIN = """
import sys, time
from numadam import _cli as cli
def ready():
    print("ready", flush=True)
    for _ in range(600):
        time.sleep(0.1)
"""
#: Code in which Ctrl-C arrives, and what is left of an exception there without `run_process`.
MOMENTS = {
    "a call": "def command():\n    ready()",
    "another exception": """
def command():
    try:
        ready()
    except KeyboardInterrupt:
        raise ImportError("half a module")
""",
}


def start(*command, handler=signal.SIG_DFL, **env):
    """Start a process in a group of its own; it inherits whether Ctrl-C is ignored."""
    ours = signal.signal(signal.SIGINT, handler)
    try:
        return subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **BUFFERED, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, ours)


def interrupted(process, line):
    """Send Ctrl-C to the group when `line` is printed; what was printed on stderr."""
    with process:
        try:
            while line not in (printed := process.stdout.readline()):
                assert printed, process.stderr.read()
            os.killpg(process.pid, signal.SIGINT)
            return process.communicate()[1]
        finally:
            process.kill()


@extras.posix
@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_is_one_line_and_130(moment):
    code = f"{BEGIN}{MOMENTS[moment]}\nsys.exit(cli.run_process(command, 'name'))"
    process = start("-c", code)
    assert interrupted(process, "ready") == "name: interrupted\n"
    assert process.returncode == 130


@extras.posix
def test_ctrl_c_that_is_ignored_stays_so():
    """As under `nohup`, and in the background of a script."""
    code = f"""{BEGIN}
import signal
def command():
    signal.raise_signal(signal.SIGINT)
    return 5
sys.exit(cli.run_process(command, "name"))"""
    process = start("-c", code, handler=signal.SIG_IGN)
    assert process.communicate() == ("", "")
    assert process.returncode == 5


@extras.posix
def test_ctrl_c_while_steps_are_compiled_and_timed(tmp_path):
    words = "bench", "--quick", "--force"
    process = start("-m", "numadam", *words, NUMBA_CACHE_DIR=str(tmp_path))
    assert interrupted(process, "elements").endswith("python -m numadam: interrupted\n")
    assert process.returncode == 130


@extras.posix
@pytest.mark.parametrize("words", [["info"], ["--help"], ["bench", "--size", "1", "--force"]])
def test_a_closed_output_is_no_error(words):
    """As behind ``| head -1``."""
    process = start("-m", "numadam", *words, NUMADAM_COMPILE_LINE="0")  # of a busy machine
    process.stdout.close()
    with process:
        errors = process.stderr.read().splitlines()
        assert process.wait() == cli.PIPE_CLOSED
    assert [line for line in errors if "busy" not in line] == []


@extras.machine(Path("/dev/full").exists(), "/dev/full")
def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = command("info", stdout=full, **BUFFERED)
    assert done.stderr == (
        "python -m numadam: error: cannot write the output: No space left on device\n"
    )
    assert done.returncode == 1


def test_a_letter_that_the_output_lacks_is_escaped():
    code = f"{BEGIN}\nsys.exit(cli.run_process(lambda: print('caf\\u00e9') or 0, 'name'))"
    assert python(code, PYTHONIOENCODING="ascii") == "caf\\xe9"

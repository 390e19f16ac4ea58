"""The command line: what it answers, its errors in one sentence, Ctrl-C, and a closed output."""

import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import numadam
from numadam import _cli as cli
from numadam import _info as info
from numadam._cli import main
from numadam._demos import mlp
from numadam._jit import build
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


def test_info_says_why_nothing_is_cached(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    monkeypatch.setattr(build, "folders", lambda: [folder])
    monkeypatch.setattr(build, "directory", build.directory.__wrapped__)
    line = info.facts()["cache folder"]
    assert line == f"cannot be written: {folder}: Not a directory"


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


def test_the_console_script_is_the_same_command():
    (script,) = entry_points(group="console_scripts", name="numadam")
    assert script.load() is main


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("words", [[], ["demo"], ["bench"], ["info"]])
def test_help_fits_the_terminal(words, columns, monkeypatch, capsys):
    """But for the examples, which are lines to be copied."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*words, "--help"]) == 0
    text, _, rest = capsys.readouterr().out.partition("examples:")
    assert " ".join(["usage: python -m numadam", *words]) in text
    examples, _, end = rest.partition("\n\n")
    assert max(map(len, examples.splitlines()), default=0) < 80
    if words == ["demo"]:
        assert "  python -m numadam demo" in examples
        assert "--output PNG" in text + end
        assert "--seed N" in text + end
    lines = text.splitlines() + end.splitlines()
    if columns < 80:  # argparse breaks no list of choices
        lines = [line for line in lines if not line.startswith((" ", "usage:"))]
    assert max(map(len, lines)) < columns, max(lines, key=len)
    assert "``" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--epochs", "0"], "whole number of at least 1, got '0'"),
        (["demo", "--epochs", "few"], "got 'few'"),
        (["demo", "--output", "no/such/x.png"], "--output: cannot write no/such/x.png: No such"),
        (["demo", "--output", "curves.jpg"], "--output: expected NAME.png"),
        (["demo", "--epochs", "2", "decays"], "demo: error: unrecognized arguments: decays"),
        (["demo", "lstm"], "unrecognized arguments: lstm"),
        (["demo", "--bounds", "1", "-1"], "bounds: expected finite MIN < MAX"),
        (["demo", "--bounds", "1"], "expected 2 arguments"),
        (["demo", "--l2", "-1"], "expected a number above 0, got '-1'"),
        (["demo", "--stop-accuracy", "95"], "a share of 1, as 0.93, got 95"),
        (["demo", "--l2", "nan"], "expected a number above 0, got 'nan'"),
        (["demo", "--seed", "-1"], "whole number of at least 0, got '-1'"),
        (["dance"], "invalid choice: 'dance'"),
        (["dmeo"], "did you mean demo?"),
        (["bench", "--qick"], "did you mean --quick?"),
        (["info", "--loud"], "unrecognized arguments: --loud"),
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
    "text that is executed": "def command():\n    exec('ready()')",  # Python ends by the signal
    "a destructor": """
class Reference:
    def __del__(self):
        ready()
def command():
    Reference()
    time.sleep(60)
""",
    "another exception": """
def command():
    try:
        ready()
    except KeyboardInterrupt:
        raise ImportError("half a module")
""",
    "an answer": """
def command():
    try:
        ready()
    except KeyboardInterrupt:
        return 1
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
    process = start("-m", "numadam", *words)
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

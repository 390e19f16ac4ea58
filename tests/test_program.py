"""A command as a process: Ctrl-C at awkward moments, a closed output, an encoding without é."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from numadam import _program
from tests.processes import ROOT

posix = pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to a group of processes")
#: As a user has it: what is written is kept until the end.
BUFFERED = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
BEGIN = """
import sys, time
from numadam import _program
def ready():
    print("ready", flush=True)
    for _ in range(600):
        time.sleep(0.1)
"""
#: Code in which Ctrl-C arrives, and what is left of an exception there without `_program`.
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


def interrupted(process, line, times=1):
    """Send Ctrl-C to the group when `line` is printed; what was printed on stderr."""
    with process:
        try:
            for _ in range(times):
                while line not in (printed := process.stdout.readline()):
                    assert printed, process.stderr.read()
                os.killpg(process.pid, signal.SIGINT)
            return process.communicate(timeout=240)[1]
        finally:
            process.kill()


@posix
@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_is_one_line_and_130(moment):
    code = f"{BEGIN}{MOMENTS[moment]}\nsys.exit(_program.run(command, 'name'))"
    process = start("-c", code)
    assert interrupted(process, "ready") == "name: interrupted\n"
    assert process.returncode == 130


@posix
def test_a_second_ctrl_c_ends_what_catches_the_first():
    code = f"""{BEGIN}
def command():
    for _ in range(9):
        try:
            ready()
        except BaseException:
            pass
sys.exit(_program.run(command, "name"))"""
    process = start("-c", code)
    assert interrupted(process, "ready", times=2) == ""
    assert process.returncode == 130


@posix
def test_ctrl_c_that_is_ignored_stays_so():
    """As under `nohup`, and in the background of a script."""
    code = f"""{BEGIN}
import signal
def command():
    signal.raise_signal(signal.SIGINT)
    return 5
sys.exit(_program.run(command, "name"))"""
    process = start("-c", code, handler=signal.SIG_IGN)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 5


@posix
def test_ctrl_c_while_llvm_works(tmp_path):
    """It destroys thousands of objects, and an exception in a destructor is lost."""
    process = start("-m", "numadam", "compile", "--serial", NUMBA_CACHE_DIR=str(tmp_path))
    assert interrupted(process, "compiled") == "python -m numadam: interrupted\n"
    assert process.returncode == 130


@posix
def test_ctrl_c_while_measuring():
    process = start("-m", "numadam", "bench", "--quick", "--force")
    assert interrupted(process, "elements") == "python -m numadam: interrupted\n"
    assert process.returncode == 130


@posix
@pytest.mark.parametrize("words", [["info"], ["--help"], ["bench", "--size", "1", "--force"]])
def test_a_closed_output_is_no_error(words):
    """As behind ``| head -1``."""
    process = start("-m", "numadam", *words)
    process.stdout.close()
    with process:
        errors = process.stderr.read().splitlines()
        assert process.wait(timeout=240) == _program.PIPE_CLOSED
    assert [line for line in errors if "busy" not in line] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is full")
def test_a_full_disk_is_one_line():
    command = [sys.executable, "-m", "numadam", "info"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command,
            env={**os.environ, **BUFFERED},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.stderr == (
        "python -m numadam: error: cannot write the output: No space left on device\n"
    )
    assert done.returncode == 1


def test_a_letter_that_the_output_lacks_is_escaped():
    code = f"{BEGIN}\nsys.exit(_program.run(lambda: print('caf\\u00e9') or 0, 'name'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "caf\\xe9\n"

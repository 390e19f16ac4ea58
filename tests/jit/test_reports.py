"""Reports of compiling: on the logger `numadam`, and on a terminal where it takes long."""

import _thread
import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import numadam as na
from numadam._core.plan import Plan
from numadam._jit import reports
from numadam._jit.reports import reported
from tests import extras


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in the place of stderr, which is told after a hundredth of a second."""
    monkeypatch.setattr(reports, "PATIENCE", 0.01)
    stream = io.StringIO()
    monkeypatch.setattr(reports, "sys", stderr_is(stream))
    return stream


def stderr_is(stream):
    """`sys`, with another stderr."""
    return SimpleNamespace(stderr=stream)


def wait_for(condition):
    while not condition():
        time.sleep(0.001)


def wait_for_text(stream):
    wait_for(stream.getvalue)


def test_the_logger_gets_one_line(caplog, capsys, tmp_path):
    """And a program without logging hears nothing."""
    with reported("a loop", None):
        pass
    assert not capsys.readouterr().err
    assert any(isinstance(handler, logging.NullHandler) for handler in reports.logger.handlers)
    caplog.clear()
    with caplog.at_level(logging.INFO, "numadam"):
        with reported("a loop", tmp_path):
            assert not caplog.records
        with reported("another", None):
            pass
    (kept, lost) = caplog.records
    assert kept.name == "numadam"
    told = [re.sub(r"\d+[.]\d s", "0.0 s", record.getMessage()) for record in (kept, lost)]
    assert told == [
        f"compiled a loop in 0.0 s, kept in {tmp_path}",
        "compiled another in 0.0 s, for this process only",
    ]


def test_a_terminal_gets_one_line_while_it_waits(terminal):
    seen = []
    with reported("a loop", None):
        wait_for_text(terminal)
        seen.append(terminal.getvalue())
    assert seen == ["numadam: compiling a loop ... "]
    rest = terminal.getvalue().removeprefix(seen[0])
    assert rest.endswith(" s, for this process only\n")
    assert terminal.getvalue().count("\n") == 1


def test_a_terminal_is_not_told_what_takes_less(terminal, monkeypatch):
    monkeypatch.setattr(reports, "PATIENCE", 60.0)
    threads = _thread._count()
    with reported("a loop", None):
        pass
    assert not terminal.getvalue()
    wait_for(lambda: _thread._count() <= threads)


class Odd:
    """A stderr that is closed, gone or half written."""

    def __init__(self, error):
        self.error, self.asked = error, 0

    def write(self, text):
        self.asked += 1
        raise self.error


def test_an_odd_stderr_is_no_error(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(reports, "PATIENCE", 0.0)
    odd = [Odd(one) for one in (OSError(5, "gone"), ValueError("closed"), RuntimeError("odd"))]
    for stream in (closed, object(), *odd):
        monkeypatch.setattr(reports, "sys", stderr_is(stream))
        with reported("a loop", None):
            wait_for(lambda stream=stream: stream not in odd or stream.asked)


@pytest.mark.parametrize(
    ("stream", "asked", "told"),
    [(io.StringIO(), "", True), (io.StringIO(), "0", False), (None, "", False)],
)
def test_a_batch_log_gets_the_line(monkeypatch, stream, asked, told):
    monkeypatch.setattr(reports, "PATIENCE", 0.0)
    monkeypatch.setattr(reports, "sys", stderr_is(stream))
    monkeypatch.setenv(reports.VARIABLE, asked)
    with reported("a loop", None):
        wait_for_text(stream) if told else time.sleep(0.02)
    assert stream is None or bool(stream.getvalue()) == told


def test_the_variable_is_0_or_1(monkeypatch):
    monkeypatch.setenv(reports.VARIABLE, "yes")
    with pytest.raises(ValueError, match="NUMADAM_COMPILE_LINE: expected 0 or 1, got 'yes'"):
        reported("a loop", None).__enter__()


def test_the_line_names_rule_and_dtype(terminal, tmp_path):
    for name, said in [
        ("adam-float64-m+v-serial", "adam for float64"),
        ("stop-tests-float32--inf-serial", "stop-tests for float32"),
        ("the objective fun", "the objective fun"),
    ]:
        terminal.truncate(terminal.seek(0))
        with reported(name, tmp_path):
            wait_for_text(terminal)
        text = terminal.getvalue()
        assert text.startswith(f"numadam: compiling {said}, once, kept on disk ... ")
        assert re.fullmatch(r"\d+[.]\d s\n", text.rpartition("... ")[2])


def test_what_is_not_kept_is_said(terminal, caplog):
    with caplog.at_level(logging.INFO, "numadam"), reported("a loop", None):
        wait_for_text(terminal)
    assert terminal.getvalue().endswith(" s, for this process only\n")
    assert caplog.messages[0].endswith(" s, for this process only")


ON_A_TERMINAL = """
import os, sys, threading, time
from numadam._jit import process, reports
reports.PATIENCE = 0.05
with reports.reported("adam-float64-m+v-serial", "a folder"):
    with process.compile_lock():
        time.sleep(0.5)
# forks of another thread while lines are written: no child finds the lock held
def compile_all():
    for k in range(20):
        with reports.reported(f"loop{k}", None):
            time.sleep(0.005)
reports.PATIENCE = 0.0
thread = threading.Thread(target=compile_all)
thread.start()
for k in range(20):
    pid = os.fork()
    if pid == 0:
        with reports.reported("in the child", None):
            pass
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
thread.join()
"""


@extras.posix
def test_a_real_terminal():
    """One line, ended before the next; threads and forks in the middle of it."""
    import numadam

    ours, theirs = os.openpty()
    root = str(Path(numadam.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    job = subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stderr=theirs, env=env)
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # Linux's end of file
        while more := os.read(ours, 4096):
            text += more
    os.close(ours)
    assert job.wait() == 0, text
    first = text.split(b"\r\n")[0].decode()
    said = "numadam: compiling adam for float64, once, kept on disk ... "
    assert re.fullmatch(re.escape(said) + r"\d+[.]\d s", first), text


def test_the_logger_silences_the_terminal(terminal):
    logger = logging.getLogger("numadam")
    before = logger.level
    try:
        logger.setLevel("WARNING")
        with reported("a loop", None):
            time.sleep(0.05)
        assert not terminal.getvalue()
        logger.setLevel("INFO")  # in addition to the line of the logger
        with reported("a loop", None):
            wait_for_text(terminal)
    finally:
        logger.setLevel(before)


def test_what_is_interrupted_ends_its_line(terminal, caplog, monkeypatch):
    with caplog.at_level(logging.INFO, "numadam"):
        for what, work, patience in (
            ("a loop", wait_for_text, 0.0),
            ("another", io.StringIO.getvalue, 3600.0),
        ):
            monkeypatch.setattr(reports, "PATIENCE", patience)
            with pytest.raises(KeyboardInterrupt), reported(what, None):
                raise KeyboardInterrupt(work(terminal))
    assert terminal.getvalue() == "numadam: compiling a loop ... stopped\n"
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "adam for float64"),
        ({"bounds": "scalar"}, "adam for float64, with bounds"),
        (
            {"present": ("m", "v", "vmax"), "norm": "all", "clip_norm": True},
            "adam for float64, with vmax, clip_norm",
        ),
        ({"norm": "all", "like": "keras"}, 'adam for float64, with nonfinite, like="keras"'),
    ],
)
def test_what_is_compiled_is_told_by_what_differs(options, words):
    plain = {"present": ("m", "v"), "variant": (), "products": (), "dtype": np.dtype(float)}
    assert Plan(na.Adam.rule, **{**plain, **options}).words == words

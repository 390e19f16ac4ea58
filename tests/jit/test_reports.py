"""Reports of compiling: on the logger `numadam`, and on a terminal where it takes long."""

import _thread
import io
import logging
import threading
import time
from types import SimpleNamespace

import pytest

from numadam._jit import reports
from numadam._jit.reports import reported


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal in the place of stderr, which is told after a hundredth of a second."""
    monkeypatch.setattr(reports, "PATIENCE", 0.01)
    stream = Terminal()
    monkeypatch.setattr(reports, "sys", SimpleNamespace(stderr=stream))
    return stream


def wait_for_text(stream):
    end = time.monotonic() + 30
    while not stream.getvalue():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_logger_gets_one_line(caplog, tmp_path):
    with caplog.at_level(logging.INFO, "numadam"):
        with reported("a loop", tmp_path):
            assert not caplog.records
        with reported("another", None):
            pass
    (kept, lost) = caplog.records
    assert kept.name == "numadam"
    assert kept.getMessage() == f"compiled a loop in 0.0 s, kept in {tmp_path}"
    assert lost.getMessage() == "compiled another in 0.0 s, for this process only"


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
    end = time.monotonic() + 30
    while _thread._count() > threads:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_thread_that_an_exception_ends_at_its_start_is_not_waited_for(terminal, monkeypatch):
    """One that is set in the caller from outside may meet the new thread instead."""

    def ended_at_once(function, args):
        return 0

    def start(thread):
        raise AssertionError("a Thread waits for ever for one that has ended")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(reports, "start_new_thread", ended_at_once)
    done = threading.Event()

    def work():
        with reported("a loop", None):
            done.set()

    _thread.start_new_thread(work, ())
    assert done.wait(30)


def test_no_terminal_no_line(monkeypatch):
    monkeypatch.setattr(reports, "PATIENCE", 0.0)
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(reports, "sys", SimpleNamespace(stderr=stream))
        with reported("a loop", None):
            time.sleep(0.02)
        assert stream is None or not stream.getvalue()


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


def test_what_is_interrupted_ends_its_line(terminal, caplog):
    with caplog.at_level(logging.INFO, "numadam"):
        for what, work in (("a loop", wait_for_text), ("another", Terminal.isatty)):
            with pytest.raises(KeyboardInterrupt), reported(what, None):
                raise KeyboardInterrupt(work(terminal))
    time.sleep(0.05)
    assert terminal.getvalue() == "numadam: compiling a loop ... stopped\n"
    assert not caplog.records


def test_a_program_without_logging_hears_nothing(capsys):
    with reported("a loop", None):
        pass
    assert not capsys.readouterr().err
    assert any(isinstance(one, logging.NullHandler) for one in reports.logger.handlers)

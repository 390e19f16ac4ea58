"""Reports of compiling: on the logger `numadam`, and on a terminal where it takes long."""

import _thread
import io
import logging
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest

import numadam as na
from numadam._core.plan import Plan
from numadam._jit import reports
from numadam._jit.reports import reported


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

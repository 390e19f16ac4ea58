"""What all tests share."""

import gc
import signal

import pytest


@pytest.fixture(autouse=True, scope="module")
def spare_the_collector() -> None:
    """What is there before a file of tests begins is not looked at by its collections.

    Numba keeps millions of objects for the loops that one process of a test run compiles, and a
    test that calls ``gc.collect()`` sixty times took minutes.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def ctrl_c():
    """Python's own handler: a process started in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)

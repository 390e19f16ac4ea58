"""Runs that are killed at random moments; `tests/campaigns/killed_runs.py` kills thousands."""

import os

import pytest

from tests.processes import python


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children of a fork")
def test_killed_runs_go_on() -> None:
    code = """
        from tests.campaigns.killed_runs import LOOPS, kill
        rng = np.random.default_rng(0)
        print(sum(kill(name, 6, rng)[0] for name in LOOPS))
    """
    assert int(python(code)) >= 24

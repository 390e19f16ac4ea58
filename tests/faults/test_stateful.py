"""Any calls of an optimiser in any order, against a plain model."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests import extras
from tests.faults.stateful import AnyCalls


@extras.fork
def test_any_order_of_calls():
    """The long run of this, with a seed: python -m tests.campaigns.stateful."""
    run_state_machine_as_test(
        AnyCalls,
        settings=settings(
            max_examples=50,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=True,
        ),
    )

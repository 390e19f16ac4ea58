"""The package stays as small as `tests/budget.toml` says. CONTRIBUTING says how it may grow."""

from __future__ import annotations

import pytest

from tests import budget

BUDGET = budget.budget()
#: A number may be so much larger than its budget, so that a line more is no matter.
SLACK = 1.02
KINDS = ("code lines", "docstring lines", "syntax nodes")


def test_every_package_has_a_budget() -> None:
    assert budget.packages().keys() == BUDGET["packages"].keys()


@pytest.mark.parametrize("name", BUDGET["packages"])
def test_packages_keep_to_their_budgets(name: str) -> None:
    for kind, number, allowed in zip(
        KINDS, budget.packages()[name], BUDGET["packages"][name], strict=True
    ):
        assert number <= SLACK * allowed, f"{name}: {number} {kind}, of {allowed}"


@pytest.mark.parametrize("name", BUDGET["counts"])
def test_counts_only_fall(name: str) -> None:
    assert budget.counts()[name] <= BUDGET["counts"][name], budget.used_once()

"""Fixtures of the tests of 16-bit numbers."""

import pytest

from numadam._core import half as storage
from tests.core.conversions import PAIRS


@pytest.fixture(params=PAIRS)
def way(request: pytest.FixtureRequest) -> str:
    """A 16-bit storage, and how it is converted."""
    if request.param == "float16" and not storage.converts_half():
        pytest.skip("this CPU does not convert float16 itself")
    return request.param

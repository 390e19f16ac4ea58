"""A cache of compiled loops for tests that run in processes of their own."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes import python


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A cache folder that two processes have filled at once, and what each of them printed.

    It has all forms of Adam. They print `digest`, of a run without threads.
    """
    folder = str(tmp_path_factory.mktemp("warm"))
    code = """
    from numadam._cpu import loop
    plan = na.Adam(np.ones(3, "f4"))._settings.plan
    for kind in (loop.HELD, loop.SERIAL, loop.PARALLEL):
        loop.compiled_step(plan, False, kind)
    print(digest())
    """
    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(lambda _: python(code, NUMBA_CACHE_DIR=folder), range(2)))
    return folder, digests


@pytest.fixture(scope="session")
def warm(filled: tuple[str, list[str]]) -> str:
    """A cache folder with Adam."""
    return filled[0]


@pytest.fixture(scope="session")
def expected(filled: tuple[str, list[str]]) -> str:
    """Digest of the parameters after the steps of `digest`."""
    return filled[1][0]

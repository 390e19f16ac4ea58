"""A cache of compiled loops for tests that run in processes of their own."""

import pytest

from tests.processes import python


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache folder with the serial and the parallel form of Adam, compiled once a session."""
    folder = str(tmp_path_factory.mktemp("warm"))
    code = """
    from numadam._cpu.kernel import compiled_step
    steps = compiled_step(na.Adam(np.ones(3, "f4"))._settings.plan)
    steps.choose(parallel=True), steps.serial
    """
    python(code, NUMBA_CACHE_DIR=folder)
    return folder


@pytest.fixture(scope="session")
def expected(warm: str) -> str:
    """Digest of the parameters after the steps of `digest`, in a process without threads."""
    return python("print(digest())", NUMBA_CACHE_DIR=warm)

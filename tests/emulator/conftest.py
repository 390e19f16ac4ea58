"""As all tests of a GPU; and which files pytest leaves alone."""

from tests.cuda.gpu.conftest import cp, pytest_pycollect_makemodule

__all__ = ["cp", "pytest_pycollect_makemodule"]
#: The translator is a program of its own: it imports its parts by their plain names.
collect_ignore_glob = ["ptx_*.py"]

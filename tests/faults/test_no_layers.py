"""A machine without OpenMP and without tbb: Numba's own threads are left, and numadam uses none."""

from tests.processes import PREAMBLE, python


def test_without_libgomp_and_tbb_the_bits_are_the_same() -> None:
    code = """
    import sys
    # Numba takes a layer that cannot be imported for one whose library is missing
    sys.modules["numba.np.ufunc.omppool"] = sys.modules["numba.np.ufunc.tbbpool"] = None
    found = digest()
    from numadam._jit import threads
    print(found, threads.layer())
    """
    scope: dict = {}
    exec(PREAMBLE, scope)
    assert python(code).split() == [scope["digest"](), "workqueue"]

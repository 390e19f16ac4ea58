"""Instructions that loops on 16-bit numbers become: on x86-64, on a CPU without F16C, as PTX."""

import re
from types import SimpleNamespace

import numba
import pytest

from numadam._core import half as storage
from tests.core.conversions import PAIRS, X86, loops, run_python

PAIRS_NATIVE = (storage.at, storage.put)

REFUSED = """
import numpy as np, numadam as na
try:
    na.SGD(np.ones(3, "f2"))
except TypeError as error:
    print(error)
na.SGD(np.ones(3, "f4")).step(np.ones(3, "f4"))
"""


@pytest.mark.skipif(not X86, reason="chooses an x86-64 CPU without F16C")
def test_a_cpu_that_does_not_convert_half():
    said = run_python(REFUSED, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert said.startswith("params: float16 needs a processor that converts it")


@pytest.mark.skipif(not X86, reason="reads x86-64 instructions")
def test_machine_code(way):
    for k in (0, 1):
        loop = loops(way)[k]
        reading = numba.types.void(numba.uint16[::1], numba.float32[::1])
        writing = numba.types.void(numba.float32[::1], numba.uint16[::1])
        compiled = numba.njit((reading, writing)[k], error_model="numpy")(loop.py_func)
        (assembly,) = compiled.inspect_asm().values()
        assert not re.search("extendhf|truncsfhf", assembly)
        if way == "float16":
            assert ("vcvtph2ps", "vcvtps2ph")[k] in assembly
        elif way == "bfloat16" and storage.converts_half():  # a CPU with AVX2, but for the oldest
            # 32 bits an element, in vectors
            assert re.search((r"\sv?pslld\s", r"\sv?psrld\s")[k], assembly)
            assert not re.search(r"\sv?p(addq|srlq)\s+[^\n]*%[xyz]mm", assembly)


@pytest.mark.cuda
@pytest.mark.parametrize("way", ["bfloat16", "float16", "float32"])
def test_ptx(way, monkeypatch):
    """One load, one store, and nothing wide between them."""
    import numba.cuda.dispatcher as dispatcher
    from numba import cuda

    capability = (9, 0)
    device = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    pair = PAIRS.get(way, PAIRS_NATIVE)
    read, write = (cuda.jit(device=True)(function) for function in pair)

    def kernel(a, b, s):
        i = cuda.grid(1)
        if i < a.size:
            write(b, i, read(a, i) * s)

    types = cuda.types
    array = (types.float32 if way == "float32" else types.uint16)[::1]
    ptx, _ = cuda.compile(
        kernel,
        types.void(array, array, types.float32),
        device=False,
        abi="numba",
        cc=capability,
        output="ptx",
    )
    body = re.sub(r"\b_Z\w+", "name", ptx)
    for unwanted in (".f64", ".local", "call", ".ftz"):
        assert unwanted not in body
    assert body.count("ld.global") == body.count("st.global") == 1
    assert ("cvt.rn.f16.f32" in body) == (way == "float16")

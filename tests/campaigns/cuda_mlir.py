"""Parts of numadam that numba-cuda-mlir, the successor of numba-cuda, compiles to PTX.

    pip install -e . "numba-cuda-mlir[cu13]==0.6.0"
    python tests/campaigns/cuda_mlir.py

In an environment of its own, without numba-cuda; no GPU is needed. What it found is in
docs/explanation/numba-cuda-mlir.md.
"""

from __future__ import annotations

import collections
import inspect
import linecache
import sys
from collections.abc import Callable

import numba
import numpy as np
from numba_cuda_mlir import cuda, tools

CAPABILITY = (9, 0)
tools._cached_cc = CAPABILITY  # it asks the driver for it, also where `cc` is given
sys.modules["numba.cuda"] = numba.cuda = cuda  # before numadam's kernels import it

import numadam as na  # noqa: E402
from numadam import nopython  # noqa: E402
from numadam._core.parts import parts_of  # noqa: E402

ARRAY = cuda.types.float32[::1]


def ptx(kernel, *types):
    """PTX of a kernel."""
    signature, how = cuda.types.void(*types), {"device": False, "abi": "numba", "output": "ptx"}
    return cuda.compile(kernel, signature, cc=CAPABILITY, **how)[0]


def of_numadam(make, *more, **options):
    """One of numadam's kernels, for Adam with these options."""
    plan = parts_of(na.Adam(np.zeros(3, "f4"), **options)).settings.plan
    function, types = make(plan, *more)
    return ptx(function, *types.args)


def kernels():
    """A few of numadam's kernels: most share their parts."""
    from numadam._cuda import kernel, norms

    clip = {"clip_norm": 1.0}
    yield "step", lambda: of_numadam(kernel.make_step, True, False, False)
    yield "step of many arrays", lambda: of_numadam(kernel.make_step, True, True, False)
    yield "lazy step", lambda: of_numadam(kernel.make_lazy, True, sparse="lazy")
    yield "accumulation", lambda: of_numadam(kernel.make_sum, True, False, True, accumulate=2)
    yield "norm", lambda: of_numadam(norms.make_sums, True, False, **clip)
    yield "sum of norms", lambda: of_numadam(norms.make_combine, **clip)
    yield "scalars", lambda: of_numadam(kernel.make_prepare, np.dtype("f8"))


def formula(rule):
    """The formula of a rule, as a device function, in a kernel with an element a thread."""
    make = rule.formula
    python = make(*[False] * len(inspect.signature(make).parameters))  # its plain form
    names = list(inspect.signature(python).parameters)[2:-1]
    state = [name for name in names if name != "gg"]  # gg: the square of the gradient
    given = ", ".join("g[i] * g[i]" if name == "gg" else f"{name}[i]" for name in names)
    scalars = collections.namedtuple("Scalars", python.__code__.co_names)
    text = f"""def kernel({", ".join(["p", "g", *state, "h"])}):
    i = cuda.grid(1)
    if i < p.size:
        p[i] -= element({", ".join(filter(None, ["p[i]", "g[i]", given, "h"]))})[0]
"""
    linecache.cache[rule.name] = (len(text), None, text.splitlines(True), rule.name)
    space = {"cuda": cuda, "element": cuda.jit(device=True)(python)}
    exec(compile(text, rule.name, "exec"), space)
    h = cuda.types.NamedUniTuple(cuda.types.float32, len(scalars._fields), scalars)
    code = ptx(space["kernel"], *[ARRAY] * (2 + len(state)), h)
    assert not any(word in code for word in (".f64", ".approx", ".local", "call")), code
    return code


def in_a_kernel_of_the_user():
    """A compiled function of `numadam.nopython`."""

    def kernel(p, g, h):
        i = cuda.grid(1)
        if i < p.size:
            p[i] = nopython.lion_element(p[i], g[i], p[i], h)[0]

    h = cuda.types.UniTuple(cuda.types.float64, len(nopython.lion_scalars()))
    return ptx(kernel, ARRAY, ARRAY, h)


def report(name: str, work: Callable[[], str]) -> None:
    """Try it, and print a line."""
    try:
        print(f"compiles  {name}: {len(work())} bytes of PTX")
    except Exception as error:
        words = " ".join(str(error).split())
        print(f"fails     {name}: {type(error).__name__}: {words[:150]}")


for title, attempt in kernels():
    report(title, attempt)
for rule_name in (
    "Adam",
    "NAdam",
    "RAdam",
    "AdaMax",
    "AdaBelief",
    "Lion",
    "RMSprop",
    "Adagrad",
    "SGD",
):
    report(f"formula of {rule_name}", lambda: formula(getattr(na, rule_name).rule))  # noqa: B023
report("numadam.nopython", in_a_kernel_of_the_user)

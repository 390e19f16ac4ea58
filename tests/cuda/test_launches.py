"""Launches of a step: their number, and the types of what they pass."""

from __future__ import annotations

import numpy as np
import pytest

import numadam as na

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's scalars


@pytest.fixture
def launches(cupy, monkeypatch):
    """Names of the kernels that were launched."""
    import numadam._cuda.launch as policy

    names, launch = [], policy.Simulated.launch

    def noted(kernel, *args):
        names.append(kernel._kernel.fn.__qualname__.split(".")[0].lstrip("_"))
        launch(kernel, *args)

    monkeypatch.setattr(policy.Simulated, "launch", noted)
    return names


def passed(addresses, numbers, scalars, types):
    """The type that a kernel declares for each number of a launch, and the number."""
    kinds = []
    for kind in types:
        kinds += kind.types if hasattr(kind, "types") else [kind]
    last = () if scalars is None else scalars
    return zip(map(str, kinds), (*addresses, *numbers, *last), strict=True)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"bounds": (0.0, 2.0), "ema": 0.9, "accumulate": 2, "clip_norm": 1.0},
        {"clip_array_norm": 1.0, "nonfinite": "raise"},
        {"capturable": True},
        {"sparse": "lazy", "nonfinite": "skip"},
    ],
)
def test_launches_pass_what_kernels_declare(cupy, monkeypatch, count, options):
    """Numbers are written as the kernel's types, and scalars lie as one of these."""
    import numadam._cuda.launch as policy
    from numadam._arrays.sparse import Rows
    from numadam._cuda import compiler as cuda_compile

    load, seen = cuda_compile._load, set()

    class Checked(policy.Simulated):
        def launch(self, scalars, blocks, threads, numbers, addresses=()):
            seen.add(self.make.__name__)
            for kind, number in passed(addresses, numbers, scalars, self.types):
                assert type(number) is {"int64": int, "float64": float, "float32": np.float32}[kind]
            assert type(blocks) is type(threads) is int
            super().launch(scalars, blocks, threads, numbers, addresses)

    def checked(make, device, plan, more):
        kernel = Checked(load(make, device, plan, more)._kernel)
        kernel.make, kernel.types = make, make(plan, *more)[1].args
        return kernel

    monkeypatch.setattr(cuda_compile, "_load", checked)
    monkeypatch.setattr(cuda_compile, "_kernels", {})
    params = [cupy.ones((4, 2), np.float32) for _ in range(count)]
    opt = na.Adam(params, lr=0.5, **options)
    for _ in range(2):
        opt.step([cupy.ones((4, 2), np.float32) for _ in range(count)])
    by_value = not {"capturable", "nonfinite"} & set(options) or options.get("nonfinite") == "raise"
    wanted = {"make_step"} if by_value else {"make_prepare", "make_step"}
    if "accumulate" in options:
        opt.step([cupy.ones((4, 2), np.float32) for _ in range(count)])
        opt.flush()
        wanted |= {"make_begin", "make_sum"}
    if "sparse" in options:
        index, values = np.array([1, 3]), np.ones((2, 2), np.float32)
        opt.step([Rows(cupy.asarray(index), cupy.asarray(values)) for _ in range(count)])
        wanted |= {"make_lazy"}
    if "capturable" not in options:
        wanted |= {"make_sums", "make_combine", "make_finalize_norms"}
    assert seen == wanted


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_arrays_takes_one_launch(cupy, launches, count):
    params = [cupy.ones(5) for _ in range(count)]
    opt = na.Adam(params)
    launches.clear()
    opt.step([cupy.ones(5) for _ in range(count)])
    assert launches == ["one_or_many"]


@pytest.mark.parametrize("options", [{"capturable": True}, {"groups": {"1": {"lr": 0.1}}}])
def test_scalars_that_the_gpu_forms_take_one_launch_more(cupy, launches, options):
    params = [cupy.ones(5) for _ in range(2)]
    opt = na.Adam(params, **options)
    launches.clear()
    opt.step([cupy.ones(5) for _ in range(2)])
    assert launches == ["make_prepare", "one_or_many"]


@pytest.mark.parametrize(("dtype", "kernels"), [("float32", 5), ("float64", 7)])
def test_a_norm_takes_three_launches_more_and_no_look_of_the_host(
    cupy, launches, monkeypatch, dtype, kernels
):
    """float64 may leave its range: two of them are launched again, to end at once."""
    params = [cupy.ones(5, dtype) for _ in range(3)]
    opt = na.Adam(params, clip_norm=1.0, nonfinite="skip")
    launches.clear()
    with monkeypatch.context() as patch:
        patch.setattr(cupy, "asnumpy", None)
        opt.step([cupy.ones(5, dtype) for _ in range(3)])
    assert len(launches) == kernels
    assert opt.t == 1

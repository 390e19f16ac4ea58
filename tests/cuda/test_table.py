"""One launch for many arrays, tiles where memory allows, and steps that a graph can replay."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numadam as na
from tests.cuda.cuda_cases import Case, gradients

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


@pytest.fixture
def tiles(cupy, monkeypatch):
    """How many numbers each read of the kernels takes."""
    from numadam._cuda import (
        compiler as cuda_compile,
    )
    from numadam._cuda import (
        kernel as cuda_loop,
    )
    from numadam._cuda import (
        memory as cuda_tiles,
    )
    from numadam._cuda import (
        norms as cuda_norms,
    )

    counts, make = [], cuda_tiles._simulated_read_tile

    def noting(memory, count, step, load):
        fetch = make(memory, count, step, load)

        def noted(address, i):
            counts.append(count)
            return fetch(address, i)

        return noted

    monkeypatch.setattr(cuda_tiles, "_simulated_read_tile", noting)
    monkeypatch.setattr(cuda_compile, "_kernels", {})
    assert cuda_loop.make_read_tile is cuda_tiles.make_read_tile
    assert cuda_norms.make_tile_access is cuda_loop.make_tile_access
    return counts


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


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("n", [1, 3, 4, 61])
def test_views_that_begin_anywhere_have_tiles(cupy, tiles, n, shift):
    """State is laid as the parameters are: head and tail element by element, tiles between."""
    case, grads = Case("Adam"), gradients((n,), "float32", 3)
    start = np.random.default_rng(5).standard_normal(n).astype("f4")
    room, of_grads = cupy.zeros(80, np.float32), cupy.zeros(80, np.float32)
    p, g = room[shift : shift + n], of_grads[shift : shift + n]
    p[...] = start
    opt = case.make(p)
    for value in grads:
        g[...] = value
        tiles.clear()
        opt.step(g)
        head = -shift % 4
        assert tiles.count(4) == 4 * (max(0, n - head) // 4)  # p, g, m, v
    wanted, _ = case.reference(start, grads)
    np.testing.assert_allclose(p, wanted, rtol=2e-5, atol=2e-5)
    assert not room[:shift].any()
    assert not room[shift + n :].any()


def test_arrays_that_are_aligned_unlike_are_right_without_tiles(cupy, tiles):
    room = cupy.zeros(80, np.float32)
    p = cupy.ones(40, np.float32)
    opt = na.SGD(p, lr=1.0)
    room[1:41] = 1.0
    tiles.clear()
    opt.step(room[1:41])
    assert set(tiles) == {1}
    assert not p.any()


@pytest.mark.parametrize(
    ("dtype", "options", "widest"),
    [
        ("float64", {}, 2),
        ("float16", {}, 4),  # its state is float32
        ("bfloat16", {"state_dtype": "bfloat16"}, 8),
        ("complex64", {}, 4),
        ("complex64", {"complex_form": "modulus"}, 4),
    ],
)
def test_a_tile_has_16_bytes_of_the_widest_array(cupy, tiles, dtype, options, widest):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    p = cupy.zeros(64, dtype)
    opt = na.Adam(p, **options)
    tiles.clear()
    opt.step(cupy.ones(64, dtype))
    assert max(tiles) == widest
    assert 1 not in tiles


def test_bfloat16_is_refused_where_cupy_cannot_copy_it(cupy, monkeypatch):
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    monkeypatch.setattr(cupy, "__version__", "13.6.0")
    with pytest.raises(ImportError, match=r"state_dtype: bfloat16 .* needs CuPy 14, and this is"):
        na.Adam(cupy.zeros(3, np.float32), state_dtype="bfloat16")
    na.Adam(cupy.zeros(3, np.float32))


def test_arrays_of_many_sizes_get_the_numbers_of_each_alone(cupy):
    sizes = [0, 1, 3, 64, 65, 200, 0, 17]
    starts = [np.random.default_rng(k).standard_normal(n) for k, n in enumerate(sizes)]
    together = [cupy.asarray(start) for start in starts]
    opt = na.Adam(together, lr=0.1)
    alone = [cupy.asarray(start) for start in starts]
    each = [na.Adam(p, lr=0.1) for p in alone]
    for step in range(3):
        grads = [np.random.default_rng((step, k)).standard_normal(n) for k, n in enumerate(sizes)]
        opt.step([cupy.asarray(g) for g in grads])
        for one, g in zip(each, grads, strict=True):
            one.step(cupy.asarray(g))
    for got, wanted in zip(together, alone, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_one_array_of_a_group_has_its_row(cupy):
    p, twin = cupy.ones(3), np.ones(3)
    for x, g in ((p, cupy.ones(3)), (twin, np.ones(3))):
        na.Adam({"w": x}, lr=0.1, clip_norm=np.inf, groups={"w": {"lr": 0.5}}).step({"w": g})
    np.testing.assert_array_equal(p, twin)
    assert p[0] < 0.6


@pytest.mark.parametrize("count", [2, 20])
def test_new_gradients_are_looked_at_and_the_old_ones_let_go(cupy, count):
    import gc
    import weakref

    params = [cupy.ones(4) for _ in range(count)]
    opt = na.SGD(params, lr=1.0)
    grads = [cupy.ones(4) for _ in range(count)]
    opt.step(grads)
    watched = weakref.ref(grads[0])
    grads = [cupy.ones(4) for _ in range(count)]
    gc.collect()
    assert watched() is None
    opt.step(grads)
    assert all((p == -1).all() for p in params)
    grads[1] = cupy.ones(5)
    with pytest.raises(ValueError, match=r"grads\[1\]: expected shape \(4,\)"):
        opt.step(grads)


def test_gradients_that_stay_are_looked_at_twice_and_then_known_again(cupy, monkeypatch):
    from numadam._cuda import arrays as ca

    params = [cupy.ones(4) for _ in range(20)]
    grads = [cupy.ones(4) for _ in range(20)]
    opt = na.SGD(params, lr=1.0)
    opt.step(grads)
    opt.step(grads)
    with monkeypatch.context() as patch:
        patch.setattr(ca, "check_array", None)
        opt.step(grads)
    assert all((p == -2).all() for p in params)
    grads[3] = cupy.full(4, 5.0)
    opt.step(grads)
    assert params[3][0] == -7
    assert params[4][0] == -3


def test_strided_gradients_that_stay_are_copied_at_each_step(cupy):
    params = [cupy.ones((3, 2)) for _ in range(20)]
    grads = [cupy.ones((2, 3)).T for _ in range(20)]
    opt = na.SGD(params, lr=1.0)
    for value in (1.0, 2.0, 3.0, 4.0):
        grads[7][...] = value
        opt.step(grads)
    assert (params[7] == -9).all()
    assert (params[8] == -3).all()


# --- captured steps -------------------------------------------------------------------------------


def test_a_replayed_step_counts_on_and_reads_lr_anew(cupy, monkeypatch):
    """A graph launches the same kernels with the same numbers: so does this."""
    import numadam._cuda.launch as policy

    tape, launch = [], policy.Simulated.launch

    def noted(kernel, *args):
        tape.append((kernel, args))
        launch(kernel, *args)

    p, twin = cupy.ones(5, np.float32), np.ones(5, np.float32)
    g = cupy.ones(5, np.float32)
    lr = cupy.full((), 0.5, np.float32)
    opt, other = na.NAdam(p, lr, capturable=True), na.NAdam(twin, 0.5)
    opt.step(g)
    monkeypatch.setattr(policy.Simulated, "launch", noted)
    opt.step(g)
    for value, rate in ((1.0, 0.25), (-3.0, 0.125)):
        g[...], lr[...] = value, rate
        for kernel, args in tape:
            launch(kernel, *args)
    for value, rate in ((1.0, 0.5), (1.0, 0.5), (1.0, 0.25), (-3.0, 0.125)):
        other.lr = rate
        other.step(np.full(5, value, np.float32))
    np.testing.assert_array_equal(p, twin)
    assert opt.t == 4
    np.testing.assert_array_equal(opt.state["mu_product"], other.state["mu_product"])
    assert opt.lr is lr


def test_lr_of_a_captured_step_is_written_where_it_lies(cupy):
    p = cupy.zeros(2)
    opt = na.SGD(p, lr=0.5, capturable=True)
    where = opt.lr
    opt.step(cupy.ones(2))
    opt.lr = 0.25
    opt.step(cupy.ones(2))
    assert opt.lr is where
    np.testing.assert_array_equal(p, -0.75)
    with pytest.raises(ValueError, match=r"write opt\.lr = x"):
        opt.step(cupy.ones(2), lr=0.1)
    with pytest.raises(ValueError, match="lr: expected a number in"):
        opt.lr = -1.0


def test_what_a_graph_cannot_hold_is_refused_during_the_capture(cupy, monkeypatch):
    params = [cupy.ones(4), cupy.ones(3)]
    grads = [cupy.ones(4), cupy.ones(3)]
    opt = na.Adam(params, capturable=True)
    opt.step(grads)
    with monkeypatch.context() as patch:
        patch.setattr(cupy.stream, "capturing", True, raising=False)
        opt.step(grads)
        with pytest.raises(RuntimeError, match="Take one step with these arrays and options"):
            opt.step([cupy.ones(4), cupy.ones(3)])
        opt.beta1 = 0.5
        with pytest.raises(RuntimeError, match="a graph is being captured"):
            opt.step(grads)
    assert opt.t == 2


def test_other_arrays_between_do_not_reach_a_graph(cupy, monkeypatch):
    """A graph reads the table of its own step at each replay."""
    import numadam._cuda.launch as policy

    tape, launch = [], policy.Simulated.launch

    def noted(kernel, *args):
        tape.append((kernel, args))

    params = [cupy.zeros(4), cupy.zeros(3)]
    grads, others = ([cupy.full(n, value) for n in (4, 3)] for value in (1.0, 100.0))
    opt = na.SGD(params, lr=1.0, capturable=True)
    opt.step(grads)
    with monkeypatch.context() as patch:
        patch.setattr(cupy.stream, "capturing", True, raising=False)
        patch.setattr(policy.Simulated, "launch", noted)
        opt.step(grads)
    for step in (others, grads):
        opt.step(step)
        for kernel, args in tape:
            launch(kernel, *args)
    assert all((p == -104).all() for p in params)
    assert opt.t == 5


def test_a_step_whose_t_the_host_counts_is_refused_during_a_capture(cupy, monkeypatch):
    p, g = cupy.zeros(4), cupy.ones(4)
    opt = na.Adam(p)
    opt.step(g)
    before = p.copy()
    with monkeypatch.context() as patch:
        patch.setattr(cupy.stream, "capturing", True, raising=False)
        with pytest.raises(RuntimeError, match="Make the optimiser with capturable=True"):
            opt.step(g)
    assert opt.t == 1
    np.testing.assert_array_equal(p, before)


def test_pinned_memory_outlives_an_optimiser_until_its_copies_are_done(cupy, monkeypatch):
    import gc
    import weakref

    from numadam._cuda import upload as cuda_upload

    monkeypatch.setattr(cuda_upload, "_orphans", type(cuda_upload._orphans)())
    monkeypatch.setattr(cupy.cuda.Event, "done", False)
    opt = na.SGD(cupy.zeros(4), capturable=True)
    opt.step(cupy.ones(4))
    ((pinned, _),) = opt._backend._control._upload._slots
    watched = weakref.ref(pinned)
    del opt, pinned, _
    gc.collect()
    assert watched() is not None
    na.SGD(cupy.zeros(4), capturable=True).step(cupy.ones(4))
    assert watched() is not None
    monkeypatch.setattr(cupy.cuda.Event, "done", True)
    na.SGD(cupy.zeros(4), capturable=True).step(cupy.ones(4))
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"accumulate": 2}, "accumulate"),
        ({"nonfinite": "raise"}, "nonfinite"),
        ({"nonfinite": "skip", "max_skips": 3}, "max_skips"),
        ({"sparse": "lazy"}, "sparse"),
        ({"beta1": lambda t: 0.5}, "beta1"),
    ],
)
def test_options_that_need_the_host_cannot_be_captured(cupy, options, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        na.Adam(cupy.ones(3), capturable=True, **options)


def test_capturable_is_for_the_gpu_and_lr_a_number(cupy):
    with pytest.raises(ValueError, match="capturable: is for CuPy parameters"):
        na.Adam(np.ones(3), capturable=True)
    for lr in (lambda t: 0.1, cupy.ones(3)):
        with pytest.raises(TypeError, match="lr: with capturable=True expected a number or a 0-d"):
            na.Adam(cupy.ones(3), lr, capturable=True)
    with pytest.raises(TypeError, match="lr: expected a 0-d array of float32 or float64"):
        na.Adam(cupy.ones(3), cupy.zeros((), np.int64), capturable=True)


def test_skipped_steps_are_counted_on_the_gpu(cupy):
    p = cupy.ones(3)
    opt = na.SGD(p, lr=1.0, nonfinite="skip", max_skips=1)
    bad = cupy.asarray(np.array([1.0, math.nan, 1.0]))
    opt.step(cupy.ones(3))
    opt.step(bad)
    assert (opt.t, opt.skipped) == (1, 1)
    with pytest.raises(FloatingPointError, match="2 times in a row"):
        opt.step(bad)
    opt.step(cupy.ones(3))
    assert (opt.t, opt.skipped, int(opt.state["skipped_in_a_row"])) == (2, 2, 0)
    np.testing.assert_array_equal(p, -1)


class Tensor:
    """An array of another library on the GPU."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return (2, 0)


@pytest.mark.parametrize("count", [1, 20])
def test_arrays_of_other_libraries_are_updated_in_place(cupy, count):
    params = [cupy.ones(4) for _ in range(count)]
    opt = na.SGD([Tensor(p) for p in params], lr=1.0)
    grads = [Tensor(cupy.ones(4)) for _ in range(count)]
    for _ in range(3):
        opt.step(grads)
    grads[0].array = cupy.full(4, 5.0)  # another library may give an object other memory
    opt.step(grads)
    np.testing.assert_array_equal(params[0], -7)
    assert all((p == -3).all() for p in params[1:])
    with pytest.raises(TypeError, match=r"grads\[0\]: expected a CuPy array, got numpy"):
        opt.step([np.ones(4)] * count)


class Shown:
    """An array that another library shows by the CUDA array interface."""

    def __init__(self, array, read_only):
        self.array, self.dtype, self.read_only = array, array.dtype, read_only

    @property
    def __cuda_array_interface__(self):
        interface = self.array.__array_interface__
        return {**interface, "data": (interface["data"][0], self.read_only)}


def test_what_another_library_shows_as_read_only_is_never_written(cupy):
    p, m, v = cupy.ones(4), cupy.zeros(4), cupy.zeros(4)
    g = Shown(cupy.ones(4), True)
    said = r"params\['w'\]: expected a CuPy array, got .*Shown, which is read-only. Use cupy.array"
    with pytest.raises(TypeError, match=said):
        na.SGD({"w": Shown(p, True)})
    opt = na.SGD(Shown(p, False), lr=1.0)
    opt.step(g)
    np.testing.assert_array_equal(p, 0)
    with pytest.raises(TypeError, match=r"out: .* which is read-only"):
        opt.step(g, out=Shown(cupy.ones(4), True))
    with pytest.raises(TypeError, match=r"m: .* which is read-only"):
        na.adam_update(p, g, Shown(m, True), v, 1)
    with pytest.raises(TypeError, match=r"p: .* which is read-only"):
        na.adam_update(Shown(p, True), g, m, v, 1)
    assert not any(a.any() for a in (p, m, v))
    assert opt.t == 1
    out = cupy.ones(4)  # with it the parameters are only read
    opt.step(g, params=Shown(p, True), out=out)
    np.testing.assert_array_equal(out, -1)
    na.sgd_update(Shown(p, True), g, lr=2.0, out=out)
    np.testing.assert_array_equal(out, -2)


def test_a_pass_without_the_widest_array_keeps_to_the_tiles_of_the_step(cupy):
    """Bounds of float16 parameters are applied before the first step, without float32 state."""
    room = cupy.full(64, 9.0, np.float16)
    na.Adam(room[:24], bounds=(0.0, 1.0))
    assert (room[:24] == 1).all()
    assert (room[24:] == 9).all()

"""The path on a GPU: right on the card, and how fast. Skipped where there is none.

``python asv_benchmarks/run.py gpu --json gpu.json`` prints all of it as a table.
"""

import functools
import itertools
import time
from statistics import median

import numba
import numpy as np

import numadam
from numadam._arrays.interop import require_gpu
from numadam._bench.peers import STEP_LR, Unavailable, need

from .common import Case, Cases, Figure, pair, size
from .minimize import jax_loop
from .options import OPTIONS, RULES
from .step import TORCH, usual_of_torch

_N = 2**28
_SMALL = [size(1_000)] * size(1_000)
#: Bytes of a step over those of a copy, an element.
_BYTES = 28 / 8
#: Largest difference from float64 on the CPU after 100 steps.
_BOUND = 1e-5
#: Options with which float64 on the CPU computes something else.
_LEFT_OUT = ("like-keras",)
_ELEMENTS = size(1_000)
#: Launches that wait in a stream at most, with room: more of them would block the host.
_QUEUE = 200


def need_gpu():
    """CuPy, where it finds a GPU."""
    try:
        require_gpu()
    except (ImportError, RuntimeError) as error:
        raise Unavailable(str(error)) from error
    import cupy

    return cupy


def need_memory(nbytes):
    """Refuse where the card has less free memory."""
    free, _ = need_gpu().cuda.runtime.memGetInfo()
    if free < nbytes:
        raise Unavailable(f"needs {nbytes / 2**30:.0f} GiB of free GPU memory")


def waited(launches):
    """A side that ends when the GPU has done what it was given."""
    cupy = need_gpu()

    def side():
        launches()
        cupy.cuda.get_current_stream().synchronize()

    return side


def numbers(n, seed=0):
    """Values like gradients, float32, on the GPU."""
    cupy = need_gpu()
    return cupy.random.default_rng(seed).standard_normal(n, dtype=cupy.float32)


def step(n, rule="Adam", **options):
    """A step over one array."""
    need_memory(24 * n)
    optimizer = getattr(numadam, rule)(numbers(n), lr=STEP_LR, **options)
    return waited(functools.partial(optimizer.step, numbers(n, 1)))


def copy(n):
    """A copy of an array on the GPU, by the driver."""
    need_memory(8 * n)
    cupy, source = need_gpu(), numbers(n)
    target = source.copy()
    kind = cupy.cuda.runtime.memcpyDeviceToDevice

    def launch():
        stream = cupy.cuda.get_current_stream()
        cupy.cuda.runtime.memcpyAsync(
            target.data.ptr, source.data.ptr, source.nbytes, kind, stream.ptr
        )

    return waited(launch)


def arrays_step(sizes, others=False, **options):
    """A step over many arrays or one; it does not wait.

    The gradient arrays are the same at each, or with `others` those of the step before the last.
    """
    need_gpu()
    params, *grads = ([numbers(n, seed) for n in sizes] for seed in range(3))
    single = len(sizes) == 1
    optimizer = numadam.Adam(params[0] if single else params, lr=STEP_LR, **options)
    one, other = (each[0] if single else each for each in grads)
    turns = itertools.cycle((one, other if others else one))
    return lambda: optimizer.step(next(turns))


def updates():
    """A functional step over one array; it does not wait."""
    need_gpu()
    p, g, m, v = (numbers(_ELEMENTS, seed) for seed in range(4))
    v *= v
    return lambda: numadam.adam_update(p, g, m, v, 1, lr=STEP_LR)


def _tensors(sizes):
    need("torch")
    import torch

    if not torch.cuda.is_available():
        raise Unavailable("torch finds no GPU")
    generator = torch.Generator("cuda").manual_seed(0)
    tensors = [torch.randn(n, device="cuda", generator=generator) for n in sizes]
    for tensor in tensors:
        tensor.requires_grad_()
        tensor.grad = torch.randn(len(tensor), device="cuda", generator=generator)
    return tensors


def torch_fused(sizes):
    """A fused step of torch."""
    tensors = _tensors(sizes)
    import torch

    optimizer = torch.optim.Adam(tensors, lr=STEP_LR, fused=True)

    def side():
        optimizer.step()
        torch.cuda.synchronize()

    return side


def _repeated(call, count, synchronize, wait_inside):
    """Measure seconds of one of so many calls in a row, with the wait for the GPU or without."""

    def once():
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        if wait_inside:
            synchronize()
        return (time.perf_counter() - start) / count

    def figure(pairs):
        once()
        return Figure(median(once() for _ in range(pairs)))

    return figure


def host_time(step):
    """Seconds until a step returns, while the GPU works: the host's share."""
    cupy = need_gpu()
    stream = cupy.cuda.get_current_stream()
    return _repeated(step, _QUEUE // 4, stream.synchronize, False)


@numba.njit
def rosenbrock(x, g):
    """The valley in any number of dimensions."""
    total = 0.0
    for i in range(len(g)):
        g[i] = 0.0
    for i in range(len(g) - 1):
        a, b = x[i + 1] - x[i] * x[i], 1.0 - x[i]
        g[i] += -400.0 * a * x[i] - 2.0 * b
        g[i + 1] += 200.0 * a
        total += 100.0 * a * a + b * b
    return total


def problems(count, n, iterations):
    """So many Rosenbrock problems on the GPU."""
    x0 = need_gpu().random.default_rng(0).uniform(-2, 2, (count, n))
    options = {"lr": 0.01, "gtol": 0.0, "maxiter": iterations}
    return waited(functools.partial(numadam.minimize_many, rosenbrock, x0, **options))


def jax_problems(count, n, iterations):
    """The same by ``jax.vmap(optax)`` on the GPU."""
    side = jax_loop(iterations, np.random.default_rng(0).uniform(-2, 2, (count, n)))
    import jax

    if jax.default_backend() != "gpu":
        raise Unavailable("JAX finds no GPU")
    return side


def agreement(rule, options, steps=100):
    """Distance of the GPU from float64 on the CPU after some steps.

    The largest difference, divided by the largest parameter.
    """
    cupy, rng = need_gpu(), np.random.default_rng(3)
    given = {k: v(_ELEMENTS) if callable(v) else v for k, v in options.items()}
    dtype = np.dtype(given.pop("dtype", np.float32))
    wide = np.complex128 if dtype.kind == "c" else np.float64
    start = rng.standard_normal(_ELEMENTS).astype(dtype)
    on_gpu, on_cpu = cupy.asarray(start), start.astype(wide)
    given = {"lr": 0.01, **given}
    on_card = {key: _moved(value, cupy) for key, value in given.items()}
    card = getattr(numadam, rule)(on_gpu, **on_card)
    reference = getattr(numadam, rule)(on_cpu, **given)
    for _ in range(steps):
        g = rng.standard_normal(_ELEMENTS).astype(dtype)
        card.step(cupy.asarray(g))
        reference.step(g.astype(wide))
    got = cupy.asnumpy(on_gpu).astype(wide)
    return float(np.abs(got - on_cpu).max() / np.abs(on_cpu).max())


def _moved(value, cupy):
    if isinstance(value, np.ndarray):
        return cupy.asarray(value)
    return tuple(_moved(part, cupy) for part in value) if isinstance(value, tuple) else value


def _right(name, rule, options):
    """A case that compares the card with float64 on the CPU."""
    what = f"{rule} with {name}: 100 steps on the card from float64 on the CPU, relative"

    def make():
        need_gpu()
        return lambda pairs: Figure(agreement(rule, options))

    return f"right-{name}", Case(what, _BOUND, make)


class Right(Cases):
    """Differences from the CPU: every rule and option."""

    unit = "ratio"
    cases = dict(
        [
            *(_right(f"rule-{name}", *given) for name, given in RULES.items()),
            *(
                _right(name, "Adam", options)
                for name, options in OPTIONS.items()
                if name not in _LEFT_OUT
            ),
        ]
    )
    track_difference = Cases.value


class Speed(Cases):
    cases = {
        "gpu-copy": Case(
            "a float32 step of 2^28 elements / a copy on the card, by bytes (0.92 of its "
            "bandwidth)",
            1 / 0.92,
            pair(lambda: step(size(_N)), lambda: copy(size(_N)), _BYTES),
        ),
        "gpu-torch": Case(
            "a float32 step of 2^28 elements / torch, fused",
            1.0,
            pair(lambda: step(size(_N)), lambda: torch_fused([size(_N)])),
            TORCH,
        ),
        "gpu-usual": Case(
            "clip by norm, AdamW and EMA of 2^26 / torch: clip_grad_norm_, fused AdamW, lerp",
            0.6,
            pair(
                lambda: step(size(2**26), "AdamW", clip_norm=1.0, ema=0.999),
                lambda: waited(usual_of_torch(*_tensors([size(2**26)]))),
            ),
            TORCH,
        ),
        "gpu-many": Case(
            "1000 arrays of 1000 elements / torch, fused",
            1.0,
            pair(lambda: waited(arrays_step(_SMALL)), lambda: torch_fused(_SMALL)),
            TORCH,
        ),
        "gpu-problems": Case(
            "minimize_many, 10^6 problems of n=4, 500 iterations / jax.vmap(optax)",
            0.5,
            pair(lambda: problems(size(10**6), 4, 500), lambda: jax_problems(size(10**6), 4, 500)),
            ("jax", "optax"),
        ),
    }
    track_ratio = Cases.value


class Seconds(Cases):
    unit = "s"
    cases = {
        f"gpu-host-{name}": Case(f"time of the host in {what}", seconds, make)
        for name, (what, seconds, make) in {
            "1": (
                "a step over one array, its gradient in the same array",
                10e-6,
                lambda: host_time(arrays_step([_ELEMENTS])),
            ),
            "other": (
                "a step over one array, its gradient in another array each time",
                15e-6,
                lambda: host_time(arrays_step([_ELEMENTS], others=True)),
            ),
            "norm": (
                "the same with clip_norm",
                25e-6,
                lambda: host_time(arrays_step([_ELEMENTS], others=True, clip_norm=1.0)),
            ),
            "update": ("adam_update", 40e-6, lambda: host_time(updates())),
            "1000": (
                "a step over 1000 arrays that stay",
                40e-6,
                lambda: host_time(arrays_step(_SMALL)),
            ),
        }.items()
    }
    track_seconds = Cases.value

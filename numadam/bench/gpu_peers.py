"""The sides of the cases on a GPU: a step of numadam, copies, torch, a captured step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

import numadam
from numadam._arrays.gpu import install_for_gpu
from numadam.bench import measure
from numadam.bench.case import Prepare
from numadam.bench.measure import Figure, Side
from numadam.bench.minimize_peers import jax_solver
from numadam.bench.peers import Unavailable, need

_LR = 1e-3
#: Launches that wait in a stream at most, with room: more of them would block the host.
_QUEUE = 200


def need_gpu() -> Any:
    """CuPy, where it finds a GPU."""
    try:
        need("cupy", "numba_cuda")
    except Unavailable as reason:
        raise Unavailable(f"{reason}: {install_for_gpu()}") from None
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise Unavailable(f"no usable GPU ({error})") from error
    if count == 0:
        raise Unavailable("no GPU")
    return cupy


def missing() -> str:
    """Why no case can run here, or ""."""
    try:
        need_gpu()
    except Unavailable as reason:
        return str(reason)
    return ""


def need_memory(nbytes: float) -> None:
    """Refuse where the card has less free memory."""
    free, _ = need_gpu().cuda.runtime.memGetInfo()
    if free < nbytes:
        raise Unavailable(f"needs {nbytes / 2**30:.0f} GiB of free GPU memory")


def waited(launches: Callable[[], object]) -> Side:
    """A side that ends when the GPU has done what it was given."""
    cupy = need_gpu()

    def side() -> None:
        launches()
        cupy.cuda.get_current_stream().synchronize()

    return side


def values(n: int, seed: int = 0) -> Any:
    """Values like gradients, float32, on the GPU."""
    cupy = need_gpu()
    return cupy.random.default_rng(seed).standard_normal(n, dtype=cupy.float32)


def step(n: int, rule: str = "Adam", **options: Any) -> Side:
    """A step over one array."""
    need_memory(24 * n)
    optimizer = getattr(numadam, rule)(values(n), lr=_LR, **options)
    return waited(functools.partial(optimizer.step, values(n, 1)))


def copy(n: int) -> Side:
    """A copy of an array on the GPU, by the driver."""
    need_memory(8 * n)
    source = values(n)
    target = source.copy()
    pointers = target.data.ptr, source.data.ptr, source.nbytes
    cupy = need_gpu()
    kind = cupy.cuda.runtime.memcpyDeviceToDevice

    def side() -> None:
        stream = cupy.cuda.get_current_stream()
        cupy.cuda.runtime.memcpyAsync(*pointers, kind, stream.ptr)

    return waited(side)


def many(sizes: Sequence[int]) -> Side:
    """A step over many arrays, the same gradient arrays at each."""
    params, grads = ([values(n, seed) for n in sizes] for seed in (0, 1))
    return waited(functools.partial(numadam.Adam(params, lr=_LR).step, grads))


def _tensors(sizes: Sequence[int]) -> list[Any]:
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


def _torch_waited(launches: Callable[[], object]) -> Side:
    import torch

    def side() -> None:
        launches()
        torch.cuda.synchronize()

    return side


def torch_fused(sizes: Sequence[int]) -> Side:
    """A fused step of torch."""
    tensors = _tensors(sizes)
    import torch

    return _torch_waited(torch.optim.Adam(tensors, lr=_LR, fused=True).step)


def torch_usual(n: int) -> Side:
    """A clip of the gradients by their norm, a fused AdamW and an average in torch."""
    tensors = _tensors([n])
    import torch

    optimizer = torch.optim.AdamW(tensors, lr=_LR, fused=True)
    averages = [tensor.detach().clone() for tensor in tensors]

    def launches() -> None:
        torch.nn.utils.clip_grad_norm_(tensors, 1.0, foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, tensors, 1e-3)

    return _torch_waited(launches)


def host_time(sizes: Sequence[int]) -> Callable[[int], Figure]:
    """Seconds until `step` returns, while the GPU works: the host's share."""
    cupy = need_gpu()
    params, grads = ([values(n, seed) for n in sizes] for seed in (0, 1))
    single = len(sizes) == 1
    optimizer = numadam.Adam(params[0] if single else params, lr=_LR)
    given = grads[0] if single else grads
    calls = _QUEUE // 4

    def once() -> float:
        cupy.cuda.get_current_stream().synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            optimizer.step(given)
        return (time.perf_counter() - start) / calls

    def measuring(pairs: int) -> Figure:
        once()
        return Figure(median(once() for _ in range(pairs)))

    return measuring


def replay(n: int) -> Callable[[int], Figure]:
    """Seconds of a captured step, replayed many times in a row."""
    cupy = need_gpu()
    optimizer = numadam.Adam(values(n), lr=_LR, capturable=True)
    gradient, stream = values(n, 1), cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        optimizer.step(gradient)
        stream.begin_capture()
        optimizer.step(gradient)
        graph = stream.end_capture()

    def once() -> float:
        stream.synchronize()
        start = time.perf_counter()
        for _ in range(_QUEUE):
            graph.launch(stream)
        stream.synchronize()
        return (time.perf_counter() - start) / _QUEUE

    def measuring(pairs: int) -> Figure:
        once()
        return Figure(median(once() for _ in range(pairs)))

    return measuring


def many_problems(problems: int, n: int, iterations: int) -> Side:
    """So many Rosenbrock problems on the GPU."""
    import numba

    cupy = need_gpu()

    @numba.njit
    def rosenbrock(x, g):  # type: ignore[no-untyped-def]  # Numba types it
        total = 0.0
        for i in range(len(g)):
            g[i] = 0.0
        for i in range(len(g) - 1):
            a, b = x[i + 1] - x[i] * x[i], 1.0 - x[i]
            g[i] += -400.0 * a * x[i] - 2.0 * b
            g[i + 1] += 200.0 * a
            total += 100.0 * a * a + b * b
        return total

    x0 = cupy.random.default_rng(0).uniform(-2, 2, (problems, n))
    return waited(
        functools.partial(
            numadam.minimize_many, rosenbrock, x0, lr=0.01, gtol=0.0, maxiter=iterations
        )
    )


def jax_problems(problems: int, n: int, iterations: int) -> Side:
    """The same by ``jax.vmap(optax)`` on the GPU."""
    need("jax", "optax")
    import jax

    if jax.default_backend() != "gpu":
        raise Unavailable("JAX finds no GPU")

    def objective(x: Any) -> Any:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    run = jax.jit(jax.vmap(jax_solver(objective, iterations)))
    x0 = jax.numpy.asarray(np.random.default_rng(0).uniform(-2, 2, (problems, n)))
    return lambda: run(x0).block_until_ready()


def agreement(rule: str, options: Mapping[str, Any], dtype: Any, steps: int = 100) -> float:
    """Distance of the GPU from float64 on the CPU after some steps.

    The largest difference, divided by the largest parameter.
    """
    cupy, rng = need_gpu(), np.random.default_rng(3)
    wide = np.complex128 if np.dtype(dtype).kind == "c" else np.float64
    start = rng.standard_normal(1_000).astype(dtype)
    on_gpu, on_cpu = cupy.asarray(start), start.astype(wide)
    options = {"lr": 0.01, **options}
    on_card = {key: _moved(value, cupy) for key, value in options.items()}
    one = getattr(numadam, rule)(on_gpu, **on_card)
    plain = {k: v for k, v in options.items() if k not in ("state_dtype", "master")}
    two = getattr(numadam, rule)(on_cpu, **plain)
    for _ in range(steps):
        g = rng.standard_normal(1_000).astype(dtype)
        one.step(cupy.asarray(g))
        two.step(g.astype(wide))
    got = cupy.asnumpy(on_gpu).astype(wide)
    return float(np.abs(got - on_cpu).max() / np.abs(on_cpu).max())


def _moved(value: Any, cupy: Any) -> Any:
    if isinstance(value, np.ndarray):
        return cupy.asarray(value)
    return tuple(_moved(one, cupy) for one in value) if isinstance(value, tuple) else value


def against(ours: Callable[[], Side], theirs: Callable[[], Side], expected: float = 1.0) -> Prepare:
    """Make a case of two sides that allocate their memory when it is prepared."""

    def prepare() -> Callable[[int], Figure]:
        need_gpu()
        sides = ours(), theirs()
        return functools.partial(measure.ratio, *sides, expected=expected)

    return prepare

"""Sides of the cases on MPI: ours in the three modes, torch's, and copies."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

import numadam
from numadam.bench.measure import Side
from numadam.bench.peers import values

_LR = 1e-3
#: Bytes of a bucket of torch's DistributedDataParallel, its default.
_DDP_BUCKET = 25 * 2**20


def distributed(comm: MPI.Intracomm, n: int, **options: Any) -> Side:
    """Mode 1: a step of n parameters, each rank with its part."""
    return _own_part(comm, n, {"comm": comm, **options})


def independent(comm: MPI.Intracomm, n: int, **options: Any) -> Side:
    """The same parts, each stepped by itself."""
    return _own_part(comm, n, options)


def _own_part(comm: MPI.Intracomm, n: int, options: dict[str, Any]) -> Side:
    own = n // comm.size + (comm.rank < n % comm.size)
    params, grads = values(own, seed=comm.rank), values(own, seed=100 + comm.rank)
    return functools.partial(numadam.Adam(params, lr=_LR, **options).step, grads)


def whole(n: int) -> Side:
    """A step of all parameters in one process."""
    return functools.partial(numadam.Adam(values(n), lr=_LR).step, values(n, seed=1))


def shared(comm: MPI.Intracomm, n: int) -> Side:
    """Mode 2: parameters and state once a node; each rank has written a gradient of its own."""
    params = numadam.mpi.shared_array(comm, n, np.float32)
    if comm.rank == 0:
        params[:] = values(n)
    comm.Barrier()
    opt = numadam.mpi.Sharded(numadam.Adam, params, comm, lr=_LR)
    opt.grads[:] = values(n, seed=100 + comm.rank)
    step: Side = opt.step
    return step


def sharded(comm: MPI.Intracomm, sizes: Sequence[int], **options: Any) -> Side:
    """Mode 3: parameters on every rank, the state cut; a gradient of its own on each rank."""
    params = [values(n, seed=k) for k, n in enumerate(sizes)]
    grads = [values(n, seed=100 * (1 + comm.rank) + k) for k, n in enumerate(sizes)]
    opt = numadam.mpi.Sharded(numadam.Adam, params, comm, lr=_LR, **options)
    return functools.partial(opt.step, grads)


def replicated(comm: MPI.Intracomm, n: int) -> Side:
    """Plain data parallel: MPI adds the gradients up, every rank steps all parameters."""
    opt, grads, total = numadam.Adam(values(n), lr=_LR), values(n, seed=comm.rank), values(n)

    def side() -> None:
        comm.Allreduce(grads, total)
        opt.step(total)

    return side


def copy(n: int) -> Side:
    """Copy n numbers from one array into another."""
    source = values(n)
    return functools.partial(np.copyto, source.copy(), source)


def begin_torch(comm: MPI.Intracomm, file: str) -> None:
    """Start torch's process group on gloo over these ranks, one thread each."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=comm.rank, world_size=comm.size
    )


def end_torch() -> None:
    """End the process group."""
    import torch.distributed as dist

    dist.destroy_process_group()


def torch_zero(sizes: Sequence[int], seed: int) -> tuple[Side, Side]:
    """Sum gradients as `DistributedDataParallel` does, and step ZeroRedundancyOptimizer.

    Each is what is fastest there: gradients are views of DDP's buckets, all buckets are on the way
    at once; parameters are views of ZeRO's buckets; Adam is fused.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.optim import ZeroRedundancyOptimizer

    params = [torch.from_numpy(values(n, seed=k)).requires_grad_() for k, n in enumerate(sizes)]
    flat, at = torch.from_numpy(values(sum(sizes), seed=seed)), 0
    for parameter in params:
        parameter.grad = flat[at : at + parameter.numel()]
        at += parameter.numel()
    buckets, ranks = flat.split(_DDP_BUCKET // flat.element_size()), dist.get_world_size()

    def reduce() -> None:
        works = []
        for bucket in buckets:
            bucket.div_(ranks)  # as DDP does: the sum is a mean, and stays finite here
            works.append(dist.all_reduce(bucket, async_op=True))
        for work in works:
            work.wait()

    optimizer = ZeroRedundancyOptimizer(
        params, torch.optim.Adam, parameters_as_bucket_view=True, lr=_LR, fused=True
    )
    return reduce, optimizer.step

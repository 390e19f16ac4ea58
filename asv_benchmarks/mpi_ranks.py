"""Program of each rank of a case on MPI; rank 0 writes the figure.

    mpiexec -n 2 python asv_benchmarks/mpi_ranks.py CASE PAIRS FILE

Sides run on all ranks at once and in turns, as in `numadam.bench.measure` for one process.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import json
import math
import os
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numba
import numpy as np
from benchmarks.common import Figure, size, values
from mpi4py import MPI

import numadam
from numadam._jit import loops
from numadam.bench.peers import STEP_LR

#: Parameters of the cases, bytes of one, and the steps after which all pages are touched.
_N, _ITEM, _STEPS = size(20_000_000), 4, 3
#: Seconds that one sample lasts at least, and between two looks of a rank that sleeps.
_SAMPLE, _NAP = 0.05, 5e-4
#: Bytes of a bucket of torch's DistributedDataParallel, its default.
_DDP_BUCKET = 25 * 2**20

# --- timing -------------------------------------------------------------------------------------


class Together:
    """A side that all ranks run at once; its time is that of the slowest rank.

    With `asleep`, ranks that are done sleep: where there are more ranks than cores, one that waits
    in MPI would take the core of one that works.
    """

    def __init__(self, comm, call, asleep=False):
        self._comm, self.call = comm, call
        self._meet = functools.partial(sleep_until_all, comm) if asleep else comm.Barrier

    def seconds(self, count):
        """Seconds of so many calls, the same number on all ranks. Collective."""
        self._meet()
        start = time.perf_counter()
        for _ in itertools.repeat(None, count):
            self.call()
        mine = time.perf_counter() - start
        self._meet()
        return float(max(self._comm.allgather(mine)))


def sleep_until_all(comm):
    """Wait for all ranks without using a core, unlike a barrier. Collective."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(_NAP)


def rounds(comm, sides, pairs, sample=_SAMPLE):
    """Seconds per call of each side in each round, one right after the other. Collective.

    The order is reversed from round to round. Before each sample all ranks sleep for a moment and
    the side runs once untimed. Every rank returns the same times.
    """
    counts = []
    for side in sides:
        side.seconds(2)  # compiles
        counts.append(comm.bcast(min(10_000, math.ceil(sample / max(side.seconds(1), 1e-9)))))
    times, order = [[] for _ in sides], list(range(len(sides)))
    gc.collect()
    gc.disable()
    try:
        for _ in range(pairs):
            for which in order:
                sleep_until_all(comm)
                sides[which].seconds(1)
                times[which].append(sides[which].seconds(counts[which]) / counts[which])
            order.reverse()
    finally:
        gc.enable()
    return times


def middle(ours, theirs):
    """The median of the ratios of one round."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


# --- bytes --------------------------------------------------------------------------------------


def resident():
    """Bytes of this process, a page that k processes share as a k-th (Linux: PSS)."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)[1]) * 1024


def _give_back():
    """Give freed memory back to the system, as far as the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def growth(comm, make):
    """Bytes by which each rank has grown once `make` has made what it returns. Collective.

    Pages that ranks share count a k-th on each, so that the sum is that of the node.
    """
    _give_back()
    comm.Barrier()
    before = resident()
    comm.Barrier()
    made = make()
    _give_back()
    comm.Barrier()  # every rank has touched its pages
    grown = resident() - before
    comm.Barrier()
    del made
    return comm.allgather(grown)


def parts_of_message(message):
    """Bytes of each part of a buffer as mpi4py takes it.

    It is an array, or a list [data, datatype] or [data, counts, (displacements,) datatype].
    """
    if not isinstance(message, (list, tuple)):
        return [memoryview(message).nbytes]
    data, *counts, kind = message
    if not counts:
        return [memoryview(data).nbytes]
    numbers = counts[0][0] if isinstance(counts[0], tuple) else counts[0]
    return [int(number) * kind.Get_size() for number in np.atleast_1d(numbers)]


class Counting(MPI.Intracomm):
    """A communicator that counts what this rank sends; its copies and parts count, too.

    Messages of a collective are those to each other rank. One that is not here is refused.
    """

    sent = messages = 0

    @staticmethod
    def reset():
        Counting.sent = Counting.messages = 0

    @staticmethod
    def _count(sent, messages):
        Counting.sent += sent
        Counting.messages += messages

    def Isend(self, buf, dest, tag=0):
        self._count(sum(parts_of_message(buf)), 1)
        return super().Isend(buf, dest, tag)

    def Send(self, buf, dest, tag=0):
        self._count(sum(parts_of_message(buf)), 1)
        return super().Send(buf, dest, tag)

    def Split(self, color=0, key=0):
        return Counting(super().Split(color, key))

    def Split_type(self, split_type, key=0, info=MPI.INFO_NULL):
        return Counting(super().Split_type(split_type, key, info))


def _gathering(name):
    def gather(self, sendbuf, recvbuf):
        # in place, this rank's part lies among the others
        place = parts_of_message(recvbuf)
        mine = place[self.rank] if len(place) > 1 else place[0] // self.size
        if sendbuf is not MPI.IN_PLACE:
            mine = sum(parts_of_message(sendbuf))
        self._count((self.size - 1) * mine, self.size - 1)
        return getattr(super(Counting, self), name)(sendbuf, recvbuf)

    return gather


def _exchanging(name):
    def exchange(self, sendbuf, recvbuf):
        parts = parts_of_message(sendbuf)
        others = [part for rank, part in enumerate(parts) if rank != self.rank and part]
        self._count(sum(others), len(others))
        return getattr(super(Counting, self), name)(sendbuf, recvbuf)

    return exchange


def _refusing(name):
    def refuse(self, *arguments, **options):
        raise NotImplementedError(f"{name}: is not counted yet. Count it in mpi_ranks.py.")

    return refuse


_REFUSED = re.compile("(?i:I?(all|bcast|gather|reduce|scatter|[brs]?send|scan|exscan))")
for _name in dir(MPI.Intracomm):
    if re.fullmatch("(Ia|A)llgatherv?", _name):
        setattr(Counting, _name, _gathering(_name))
    elif re.fullmatch("(Ia|A)lltoallv", _name):
        setattr(Counting, _name, _exchanging(_name))
    elif _name[0].isupper() and _name not in vars(Counting) and _REFUSED.match(_name):
        setattr(Counting, _name, _refusing(_name))

# --- sides --------------------------------------------------------------------------------------


def distributed(comm, n, **options):
    """Mode 1: a step of n parameters, each rank with its part."""
    return _part(comm, n, {"comm": comm, **options})


def independent(comm, n, **options):
    """The same parts, each stepped by itself."""
    return _part(comm, n, options)


def _part(comm, n, options):
    mine = n // comm.size + (comm.rank < n % comm.size)
    params, grads = values(mine, seed=comm.rank), values(mine, seed=100 + comm.rank)
    return functools.partial(numadam.Adam(params, lr=STEP_LR, **options).step, grads)


def whole(comm, n):
    """A step of all parameters on rank 0, with a thread for each rank, which sleep meanwhile."""
    if comm.rank:
        return lambda: None
    optimizer, grads = numadam.Adam(values(n), lr=STEP_LR), values(n, seed=1)

    def side():
        numba.set_num_threads(min(comm.size, numba.config.NUMBA_NUM_THREADS))
        optimizer.step(grads)
        numba.set_num_threads(1)

    return side


def shared(comm, n):
    """Mode 2: parameters and state once a node; each rank has written a gradient of its own."""
    params = numadam.mpi.shared_array(comm, n, np.float32)
    if comm.rank == 0:
        params[:] = values(n)
    comm.Barrier()
    opt = numadam.mpi.Sharded(numadam.Adam, params, comm, lr=STEP_LR)
    opt.grads[:] = values(n, seed=100 + comm.rank)
    return opt.step


def sharded(comm, sizes, **options):
    """Mode 3: parameters on every rank, the state cut; a gradient of its own on each rank."""
    params = [values(n, seed=k) for k, n in enumerate(sizes)]
    grads = [values(n, seed=100 * (1 + comm.rank) + k) for k, n in enumerate(sizes)]
    opt = numadam.mpi.Sharded(numadam.Adam, params, comm, lr=STEP_LR, **options)
    return functools.partial(opt.step, grads)


def replicated(comm, n):
    """Plain data parallel: MPI adds the gradients up, every rank steps all parameters."""
    opt, grads, total = (
        numadam.Adam(values(n), lr=STEP_LR),
        values(n, seed=comm.rank),
        values(n),
    )

    def side():
        comm.Allreduce(grads, total)
        opt.step(total)

    return side


def copy(n):
    """Copy n numbers from one array into another."""
    source = values(n)
    return functools.partial(np.copyto, source.copy(), source)


def begin_torch(comm, file):
    """Start torch's process group on gloo over these ranks, one thread each."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=comm.rank, world_size=comm.size
    )


def torch_zero(sizes, seed):
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

    def reduce():
        works = []
        for bucket in buckets:
            bucket.div_(ranks)  # as DDP does: the sum is a mean, and stays finite here
            works.append(dist.all_reduce(bucket, async_op=True))
        for work in works:
            work.wait()

    optimizer = ZeroRedundancyOptimizer(
        params, torch.optim.Adam, parameters_as_bucket_view=True, lr=STEP_LR, fused=True
    )
    return reduce, optimizer.step


# --- cases --------------------------------------------------------------------------------------


def _milliseconds(times):
    return f"{median(times) * 1e3:.1f} ms"


def _distributed(comm, pairs, file, **options):
    """Each side twice, as a palindrome: where its arrays lie makes some percent."""
    order = (distributed, independent, independent, distributed)
    sides = [Together(comm, side(comm, _N, **options)) for side in order]
    a, b, c, d = rounds(comm, sides, pairs)
    mine, other = ([sum(both) / 2 for both in zip(*two, strict=True)] for two in ((a, d), (b, c)))
    return Figure(middle(mine, other), median(mine), median(other))


def _shared(comm, pairs, file):
    sides = Together(comm, shared(comm, _N)), Together(comm, whole(comm, _N), asleep=True)
    mine, other = rounds(comm, sides, pairs)
    return Figure(middle(mine, other), median(mine), median(other))


def _stepped(side):
    for _ in range(_STEPS):
        side()
    return side


def _of_formula(found, formula, whose):
    return Figure(found / formula, note=f"{found / 1e6:.2f} MB {whose}, formula {formula / 1e6:g}")


def _memory(comm, pairs, file, side, each, whose):
    """Bytes that a side makes ranks grow by, over those of a parameter by the formula."""
    _stepped(side(comm, size(1000)))
    grown = growth(comm, lambda: _stepped(side(comm, _N)))
    found = sum(grown) if whose == "a node" else max(grown)
    return _of_formula(found, each(comm.size) * _N, whose)


def _traffic(comm):
    """Bytes a rank must send in a step of mode 3: a gradient's share, and a parameter's."""
    return 2 * (comm.size - 1) / comm.size * _N * _ITEM


def _bytes_sent(comm, pairs, file):
    step = _stepped(sharded(Counting(comm), [_N]))
    Counting.reset()
    step()
    most, messages = max(comm.allgather((Counting.sent, Counting.messages)))
    figure = _of_formula(most, _traffic(comm), "a rank and step")
    return Figure(figure.value, note=f"{figure.note}, {messages} messages")


def _floor(comm, pairs, file):
    """The whole step, and copies of as many bytes as it sends, both ranks at once."""
    sides = sharded(comm, [_N]), copy(round(_traffic(comm)) // _ITEM), independent(comm, _N)
    mine, copies, steps = rounds(comm, [Together(comm, side) for side in sides], pairs)
    left_out = f"the floor has no step: stepping half without MPI takes {_milliseconds(steps)}"
    rest = middle([a - b for a, b in zip(mine, steps, strict=True)], copies)
    note = f"{left_out}; without it {rest:.2f}"
    return Figure(middle(mine, copies), median(mine), median(copies), note=note)


def _torch(comm, pairs, file, sizes):
    begin_torch(comm, f"{file}.gloo")
    ours = Together(comm, sharded(comm, sizes, reduce="mean"))
    reduce, step = torch_zero(sizes, 100 * (1 + comm.rank))
    theirs, part = Together(comm, lambda: (reduce(), step())), Together(comm, reduce)
    mine, other, reductions = rounds(comm, (ours, theirs, part), pairs)
    import torch.distributed as dist

    dist.destroy_process_group()
    note = f"{_milliseconds(reductions)} of theirs is the all-reduce"
    return Figure(middle(mine, other), median(mine), median(other), note=note)


def _sharded_one(comm, n):
    return sharded(comm, [n])


_bytes = functools.partial(_memory, whose="a rank")
#: The cases by name: called with communicator, pairs and the file of the figure. Mode 2 has
#: parameters, moments and each rank's gradient; mode 3 buckets that do not grow with P.
CASES = {
    "mpi-mode1-20M": _distributed,
    "mpi-mode1-clip-20M": functools.partial(_distributed, clip_norm=1.0),
    "mpi-mode1-memory": functools.partial(_bytes, side=distributed, each=lambda n: 16 / n),
    "mpi-mode2-20M": _shared,
    "mpi-mode2-memory": functools.partial(
        _memory, side=shared, each=lambda n: 12 + 4 * n, whose="a node"
    ),
    "mpi-mode3-bytes": _bytes_sent,
    "mpi-mode3-floor": _floor,
    "mpi-mode3-torch-20x1M": functools.partial(_torch, sizes=[size(1_000_000)] * 20),
    "mpi-mode3-torch-20M": functools.partial(_torch, sizes=[_N]),
    "mpi-mode3-memory": functools.partial(_bytes, side=_sharded_one, each=lambda n: 8 + 8 / n),
}


def run(main, words):
    """Run a program of ranks: `main` returns what rank 0 writes as JSON into the last word's file.

    An error ends all ranks, which would wait for ever.
    """
    try:
        loops.layer()
        numba.set_num_threads(1)
        found = main(MPI.COMM_WORLD, *words)
        if MPI.COMM_WORLD.rank == 0:
            Path(words[-1]).write_text(json.dumps(found))
    except BaseException:
        sys.excepthook(*sys.exc_info())
        MPI.COMM_WORLD.Abort(1)


def _main(comm, name, pairs, file):
    return asdict(CASES[name](comm, int(pairs), Path(file)))


if __name__ == "__main__":
    run(_main, sys.argv[1:])

"""Ranks that are threads, each on a GPU of its own where there are several."""

from __future__ import annotations

from tests.processes import on_ranks as on_threads


def on_ranks(size, work):
    """Results of ``work(ranks)`` on each rank."""
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()

    def on_gpu(ranks):
        # each process would have streams of its own
        with cupy.cuda.Device(ranks.rank % count), cupy.cuda.Stream(non_blocking=True) as stream:
            result = work(ranks)
            stream.synchronize()
            return result

    return on_threads(size, on_gpu)

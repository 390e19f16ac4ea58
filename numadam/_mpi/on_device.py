"""Sharded parameters that are CuPy arrays: their checks, their gradients, and their exchange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numadam._arrays.checks import NO_GRADIENTS
from numadam._arrays.interop import as_views
from numadam._arrays.tree import Active, replaced, same_objects
from numadam._cuda import arrays as ca
from numadam._cuda.launch import on_gpu
from numadam._mpi.choose import device_transport
from numadam._mpi.cut import Cut
from numadam._mpi.device_buckets import DeviceBuckets
from numadam._mpi.ranks import Ranks


def check_device_leaves(leaves: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse parameters of other types, dtypes, memory orders and GPUs.

    Raises
    ------
    TypeError, ValueError
        With the name of the array.
    """
    ca.check_params(leaves, names)
    if leaves[0].dtype.name == "bfloat16":
        raise TypeError(
            f"{names[0]}: gradients in bfloat16 are not added up over ranks on a GPU. Use float32 "
            "parameters, and state_dtype='bfloat16' to save memory."
        )
    for leaf, name in zip(leaves, names, strict=True):
        if not leaf.flags.c_contiguous:
            raise ValueError(
                f"{name}: expected an array in C order, of which each rank steps a part. Use "
                "cupy.ascontiguousarray(x), and keep that as your array."
            )
    ca.check_overlap(list(zip(names, leaves, strict=True)), [])


class OnDevice:
    """Gradients and exchange of CuPy parameters that every rank holds. Collective to make.

    Parameters
    ----------
    ranks : Ranks
    cut : Cut
        Of as many nodes as ranks.
    tree : Active
        Structure of the parameters without frozen arrays.
    leaves : sequence of arrays
        The parameters that are not frozen.
    asked : str
        The option `transport`.
    bucket : int
        Elements that a rank receives in a round, about.
    divisor : int
        By which sums are divided.

    Attributes
    ----------
    transport : str
        The name of the transport.
    """

    def __init__(
        self,
        ranks: Ranks,
        cut: Cut,
        tree: Active,
        leaves: Sequence[Any],
        asked: str,
        bucket: int,
        divisor: int,
    ) -> None:
        self._tree, self._leaves = tree, list(leaves)
        self._titles, self._of = tree.names("grads"), tree.names("params")
        self._dtype, self._gpu = leaves[0].dtype, int(leaves[0].device.id)
        self._params = [leaf.reshape(-1) for leaf in leaves]
        self._views: list[Any] = []
        self._nested: Any = None
        transport = device_transport(ranks, asked)
        self.transport = transport.name
        self._buckets = DeviceBuckets(transport, cut, ranks.rank, self._dtype, bucket, divisor)

    @property
    def buffers(self) -> Any:
        """Buffers in the structure of the parameters, in one flat buffer that starts as zeros."""
        import cupy

        if self._nested is None:
            with on_gpu(self._gpu):
                own = cupy.zeros(sum(leaf.size for leaf in self._leaves), self._dtype)
            at = 0
            for leaf in self._leaves:
                self._views.append(own[at : at + leaf.size].reshape(leaf.shape))
                at += leaf.size
            self._nested = self._tree.unflatten(self._views)
        return self._nested

    def sources(self, grads: Any) -> list[Any]:
        """The gradients of this rank, checked and flat; None: those in `buffers`.

        Raises
        ------
        TypeError, ValueError
            Where an array does not fit, with its name.
        """
        leaves = self._own() if grads is None else self._checked(self._tree.flatten(grads, "grads"))
        with on_gpu(self._gpu):
            return [self._flat(leaf) for leaf in leaves]

    def _flat(self, leaf: Any) -> Any:
        """An array as one axis, in C order: a copy of one that lies otherwise."""
        import cupy

        return cupy.ascontiguousarray(leaf).reshape(-1)

    def _checked(self, given: Sequence[Any]) -> list[Any]:
        leaves = as_views(given, "CuPy", False, self._titles.__getitem__)
        for leaf, title, of, param in zip(
            leaves, self._titles, self._of, self._leaves, strict=True
        ):
            ca.check_array((title, leaf), of, param.shape, self._dtype, self._gpu, written=False)
        written = list(zip(self._of, self._leaves, strict=True))
        ca.check_overlap(written, list(zip(self._titles, leaves, strict=True)))
        return leaves

    def _own(self) -> list[Any]:
        """The buffers, which are still those that were given out."""
        if self._nested is None:
            raise ValueError(NO_GRADIENTS)
        now = self._tree.flatten(self._nested, "opt.grads")
        if not same_objects(now, self._views):
            raise replaced(self._tree.names("opt.grads"), now, self._views)
        return self._views

    def sync(self) -> None:
        """Do nothing: no memory is shared."""

    def total(self, sources: Sequence[Any]) -> list[Any]:
        """The sums over all ranks of what this rank steps, for each array. Collective."""
        with on_gpu(self._gpu):
            return self._buckets.total(sources)

    def spread(self) -> None:
        """Give this rank's part of the parameters to the other ranks, and take theirs.

        Collective. Complete in the order of CuPy's current stream.
        """
        with on_gpu(self._gpu):
            self._buckets.spread(self._params)

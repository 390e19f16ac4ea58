"""Gradients of this rank, and where those of its neighbours lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from numadam._arrays import checks as ar
from numadam._arrays.interop import as_views, is_cupy
from numadam._arrays.layout import SKEW, address_of, aligned_zeros
from numadam._arrays.tree import Active, replaced, same_objects
from numadam._mpi.cut import Cut
from numadam._mpi.flat import Flat
from numadam._mpi.nodes import Nodes
from numadam._mpi.windows import Window, zero

#: Bytes by which gradients begin behind the start of a page, as in `CpuBackend.gradients`.
_SKEW = 3 * SKEW


class Gradients:
    """Gradients of the ranks of a node. Making them is collective where there are several.

    Parameters
    ----------
    nodes : Nodes
    cut : Cut
    tree : Active
        Structure of the parameters without frozen arrays.
    leaves : sequence of arrays
        The parameters that are not frozen.
    """

    def __init__(self, nodes: Nodes, cut: Cut, tree: Active, leaves: Sequence[Any]) -> None:
        self._cut, self._tree, self._leaves, self._own = cut, tree, leaves, None
        self._dtype, self._shapes = leaves[0].dtype, [leaf.shape for leaf in leaves]
        self._titles, self._of = tree.names("grads"), tree.names("params")
        self._is_host = not is_cupy(leaves[0])
        self._views: list[Any] = []
        self._nested: Any = None
        self._window: Window | None = None
        self._shared: list[Flat] = []
        if nodes.local is not None:
            nbytes = cut.end * self._dtype.itemsize + _SKEW
            self._window = Window(nodes.local, nbytes)
            segments = [self._window.segment(k, nbytes) for k in range(nodes.each)]
            zero(segments[nodes.place])
            flats = [segment[_SKEW:].view(self._dtype) for segment in segments]
            self._shared = [Flat(cut, flat) for flat in flats]
            self._own = flats[nodes.place]
        if self._is_host:
            spans = np.array([(address_of(leaf), leaf.nbytes) for leaf in leaves]).reshape(-1, 2)
            spans = spans[np.argsort(spans[:, 0])]
            self._low, self._high = spans[:, 0], spans.sum(1)

    @property
    def buffers(self) -> Any:
        """Buffers in the structure of the parameters, in one flat buffer that starts as zeros."""
        if self._nested is None:
            if self._own is None:
                self._own = self._zeros()
            at = 0
            for shape, leaf in zip(self._shapes, self._leaves, strict=True):
                self._views.append(self._own[at : at + leaf.size].reshape(shape))
                at += leaf.size
            self._nested = self._tree.unflatten(self._views)
        return self._nested

    def _zeros(self) -> Any:
        if self._is_host:
            return aligned_zeros(self._cut.end * self._dtype.itemsize + _SKEW)[_SKEW:].view(
                self._dtype
            )
        from numadam._mpi.on_device import zeros

        return zeros(self._cut.end, self._leaves[0])

    def sources(self, grads: Any) -> list[Flat]:
        """The gradients of this node's ranks, in their order, checked; None: those in `buffers`.

        Where ranks share memory others are copied into `buffers`.

        Raises
        ------
        TypeError, ValueError
            Where an array does not fit, with its name.
        """
        if grads is None:
            self._refuse_replaced()
            return self._shared or [Flat(self._cut, self._own)]
        leaves = self._tree.flatten(grads, "grads")
        if self._nested is not None and same_objects(leaves, self._views):
            return self.sources(None)
        flat = self._flat(leaves)
        if self._window is None:
            return [Flat(self._cut, flat)]
        at = 0
        for leaf in flat:
            self._own[at : at + leaf.size] = leaf  # type: ignore[index]
            at += leaf.size
        return self._shared

    def _flat(self, leaves: Sequence[Any]) -> list[Any]:
        """Gradients that were passed, checked and flat."""
        if not self._is_host:
            from numadam._mpi.on_device import flat_gradients

            return flat_gradients(leaves, self._titles, self._of, self._leaves)
        flat = self.checked(leaves)
        if self._window is None:
            self._refuse_overlap(leaves, flat)
        return flat

    def sync(self) -> None:
        """See what the neighbours have written, and let them see what this rank has."""
        if self._window is not None:
            self._window.sync()

    def checked(self, leaves: Sequence[Any]) -> list[np.ndarray]:
        """The arrays flat, in C order: copies of those that lie otherwise."""
        dtype, flat = self._dtype, []
        for k, (leaf, shape) in enumerate(zip(leaves, self._shapes, strict=True)):
            plain = type(leaf) is np.ndarray and leaf.dtype == dtype and leaf.shape == shape
            if not plain:
                leaf = self._mended(leaf, shape, k)
            if not (leaf.flags.c_contiguous and leaf.flags.aligned):
                leaf = leaf.copy(order="C")
            flat.append(leaf.reshape(-1))
        return flat

    def _mended(self, leaf: Any, shape: tuple[int, ...], k: int) -> np.ndarray:
        """A plain array for one of another type, or the error."""
        title, dtype = self._titles[k], self._dtype
        number = ar.number_as_array(leaf, dtype) if shape == () else None
        leaf = leaf if number is None else number
        if not ar.is_numpy(leaf):
            (leaf,) = as_views([leaf], "NumPy", False, lambda _: title)
        if not ar.is_numpy(leaf):
            raise TypeError(f"{title}: {ar.describe(leaf, 'NumPy')}")
        if leaf.dtype != dtype:
            raise TypeError(ar.bad_dtype(title, leaf.dtype, dtype, self._of[k]))
        if leaf.shape != shape:
            raise ValueError(ar.bad_shape(title, leaf.shape, shape, self._of[k]))
        return np.ndarray.view(leaf, dtype, np.ndarray)

    def _refuse_overlap(self, leaves: Sequence[Any], flat: Sequence[np.ndarray]) -> None:
        """Refuse gradients in the memory of parameters: a step would read what it has written."""
        low = np.array([address_of(one) for one in flat])
        high = low + [one.nbytes for one in flat]
        behind = np.searchsorted(self._high, low, side="right")  # the first that ends behind it
        near = np.flatnonzero(np.append(self._low, np.iinfo(np.int64).max)[behind] < high)
        if len(near):
            written = list(zip(self._of, self._leaves, strict=True))
            problem = ar.shared_memory(written, [(self._titles[k], flat[k]) for k in near.tolist()])
            if problem:
                raise ValueError(problem)

    def _refuse_replaced(self) -> None:
        if self._nested is None:
            raise ValueError(ar.NO_GRADIENTS)
        now = self._tree.flatten(self._nested, "opt.grads")
        if not same_objects(now, self._views):
            raise replaced(self._tree.names("opt.grads"), now, self._views)

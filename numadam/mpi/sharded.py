"""`numadam.mpi.Sharded`: parameters that all ranks hold, with a state that is shared out.

Who may touch what, and when. Within a node p and the gradient windows are shared memory, and a
rank reads the windows of its neighbours; between nodes all goes through messages:

1. Before a step each rank writes its own gradient, and nobody else reads it.
2. A step begins with an exchange of a few words among all ranks. It tells whether all of them can
   go on, and it is the barrier: when it is done, all gradients are written. A rank that refuses its
   arguments says so here, and nobody writes anything.
3. Each rank reads the gradients of its piece from all ranks, and writes p, m, v of its piece. Its
   piece of p goes out to the same piece of p on the other nodes.
4. A barrier of the node ends the step: p is complete on this node, and no one reads the gradients
   any more. Now each rank may read p, and overwrite its own gradient.

Between steps a rank that writes shared parameters writes them for its neighbours, too.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from numadam._arrays import formatting
from numadam._arrays.interop import home, is_cupy
from numadam._arrays.layout import address_of
from numadam._arrays.tree import Active, Tree
from numadam._core.hyper import LR
from numadam._core.parts import parts_of
from numadam._cpu.adding import Adding
from numadam._jit.interrupts import defer_interrupts
from numadam._mpi.buckets import Buckets
from numadam._mpi.choose import check_asked
from numadam._mpi.cut import GRAIN, Cut
from numadam._mpi.errors import RankError
from numadam._mpi.flat import Flat
from numadam._mpi.gradients import Gradients
from numadam._mpi.nodes import nodes_of
from numadam._mpi.ranks import LEFT_ALONE, described, ranks_of
from numadam._mpi.replicas import (
    check_leaves,
    check_same,
    check_values,
    common_window,
    together,
)
from numadam._mpi.slices import frozen_leaves, refuse, sliced_bounds, sliced_rates
from numadam._optimizer import held, shards
from numadam._optimizer.attributes import fixed, hyper
from numadam._optimizer.optimizer import Optimizer
from numadam._settings.learning_rate import is_plain

if TYPE_CHECKING:
    from numadam._mpi.on_device import OnDevice

#: Elements of one part of the step, of which a bucket holds a whole number.
_PART = 16_384
_MOST_BYTES = 2**30
_MAKING = "Sharded"


class Sharded:
    r"""Parameters that every rank holds, stepped by all of them together: each its part.

    .. math:: g = \sum_{r=0}^{N-1} g_r, \qquad p = \text{step of } kind(p, g)

    Each rank computes a gradient of its own, of all parameters; their sum counts (or their mean).
    A rank has the state (m, v, ...) of its part alone, steps that part, and then all have all
    parameters again. With N ranks, float32 and Adam a rank needs ``8 + 8/N`` bytes a parameter,
    and passes on ``2 (N-1)/N`` times its parameters a step. Where `params` are arrays of
    `shared_array`, those of one machine exist once, k ranks there need ``4 + 12/k`` bytes each, and
    nothing is copied; messages go between machines only.

    Collective: the constructor and `step`, `flush`, `reset`, `check_equal`, by all ranks of `comm`.

    Parameters
    ----------
    kind : class
        Of the optimiser: `Adam`, `AdamW`, `SGD`, ...
    params : array or nesting of arrays
        NumPy or CuPy arrays in C order with the same values on all ranks; changed in place. All of
        them plain arrays, or all made by `shared_array`, then on as many ranks on each machine.
    comm : mpi4py.MPI.Intracomm
        Never used itself, but a private duplicate of it.
    lr : float, callable, array or nesting, optional
        As in `kind`.
    reduce : {"sum", "mean"}, default "sum"
        What counts of the gradients of all ranks.
    bucket_bytes : int, default 2 MiB
        Bytes of gradients that a rank receives at a time from all other machines, while it steps
        those before.
    transport : {"auto", "mpi", "nccl", "host"}, default "auto"
        How CuPy arrays go between ranks: through an MPI that takes the memory of a GPU, NCCL, or
        the memory of the host. "auto" takes the first of these that every rank has.
    **options
        Those of `kind`, the same on all ranks. `clip_norm`, `clip_array_norm` and `nonfinite` are
        of the summed gradients. `sparse`, `capturable` and `comm` are refused.

    Attributes
    ----------
    shard : Optimizer
        The optimiser of this rank's part. Its arrays are flat slices of `params` in their nesting,
        some of them empty.
    rank, ranks : int
    nodes : int
        Machines that hold parameters of their own: the number of ranks with plain arrays.

    Raises
    ------
    TypeError, ValueError
        As `kind`, and where params differ between ranks. On all ranks; then nothing is written.
    RankError
        Where another rank refused its arguments.

    Notes
    -----
    Sums are formed in the order of the ranks (with several machines: of the ranks of each, then of
    the machines), so all ranks have the same bits, in every run, and those of one process that adds
    up the gradients in this order.

    Parameters that are written between steps have to be written on all ranks alike, shared ones by
    one rank; `check_equal` compares them. lr, schedules and hyperparameters must be the same on all
    ranks, too, which every step checks.

    Examples
    --------
    Four ranks, each with its part of the data::

        comm = MPI.COMM_WORLD
        w = np.zeros(1_000_000)
        opt = na.mpi.Sharded(na.AdamW, w, comm, lr=1e-3, reduce="mean")
        for batch in batches[comm.rank :: comm.size]:
            opt.step(gradient(w, batch))
    """

    __module__ = "numadam.mpi"

    def __init__(
        self,
        kind: type[Optimizer],
        params: Any,
        comm: Any,
        *,
        lr: Any = None,
        reduce: str = "sum",
        bucket_bytes: int = 2 * 2**20,
        transport: str = "auto",
        **options: Any,
    ) -> None:
        ranks = ranks_of(comm)

        def check() -> tuple[Tree, list[Any], list[bool]]:
            _check_arguments(kind, reduce, bucket_bytes, options)
            tree = Tree(params)
            leaves = list(tree.flatten(params, "params"))
            check_leaves(leaves, tree.names("params"))
            check_asked(transport, home(leaves[0]))
            return tree, leaves, frozen_leaves(options.get("groups"), tree, kind.rule)

        tree, leaves, frozen = together(ranks, _MAKING, check)
        names, shapes = tree.names("params"), [leaf.shape for leaf in leaves]
        about = (kind.__name__, reduce, bucket_bytes, tree.paths(), shapes, leaves[0].dtype.name)
        more = (frozen, home(leaves[0]), transport)
        check_same(ranks, (*about, *more), "Sharded: class, params or options")
        window = together(ranks, _MAKING, lambda: common_window(leaves, names))
        nodes = nodes_of(ranks, window)
        if nodes.count > 1:
            check_values(ranks, leaves, names)
        active = Active(tree, [not still for still in frozen])
        cut = Cut([leaf.size for leaf in active.select(leaves)], nodes.count, nodes.each)
        flat = [_plain(leaf).reshape(-1) for leaf in leaves]
        own = iter(cut.parts(*cut.piece(nodes.node, nodes.place)))
        parts = [(0, 0) if still else next(own) for still in frozen]
        slices = [leaf[low:high] for leaf, (low, high) in zip(flat, parts, strict=True)]

        constructor: Any = kind  # a rule's

        def make() -> Optimizer:
            given = dict(options)
            if lr is not None:
                given["lr"] = sliced_rates(lr, tree, leaves, parts)
            if options.get("bounds") is not None:
                given["bounds"] = sliced_bounds(options["bounds"], tree, leaves, parts, frozen)
            made: Optimizer = constructor(tree.unflatten(slices), comm=comm, **given)
            return made

        self._shard = together(ranks, _MAKING, make)
        self._ranks, self._nodes, self._reduce, self._broken = ranks, nodes, reduce, ""
        self._params, self._leaves, self._tree, self._cut = params, leaves, tree, cut
        self._begin, self._end = cut.piece(nodes.node, nodes.place)
        self._parts = cut.parts(self._begin, self._end)
        self._slices, self._frozen = parts, frozen
        self._active, self._flat = active, Flat(cut, list(active.select(flat)))
        self._gradients: Gradients | OnDevice
        self._sum: np.ndarray | None = None
        self._device: OnDevice | None = None
        if is_cupy(leaves[0]):
            self._prepare_device(bucket_bytes, transport)
        else:
            self._prepare(bucket_bytes)
        if options.get("bounds") is not None:  # the shard has moved parameters into them
            self._pass_on()
        self._barrier()

    def _prepare_device(self, bucket_bytes: int, transport: str) -> None:
        """Choose how CuPy arrays go between ranks."""
        from numadam._mpi.on_device import OnDevice

        divisor = self._ranks.size if self._reduce == "mean" else 1
        bucket, active = bucket_bytes // self._leaves[0].dtype.itemsize, self._active
        about = self._ranks, self._cut, active, active.select(self._leaves)
        self._gradients = self._device = OnDevice(*about, transport, bucket, divisor)

    def _prepare(self, bucket_bytes: int) -> None:
        """Cut the step into parts and rounds."""
        settings = parts_of(self._shard).settings
        backend: Any = parts_of(self._shard).backend
        active, nodes = self._active, self._nodes
        self._gradients = Gradients(nodes, self._cut, active, active.select(self._leaves))
        dtype, cut = self._leaves[0].dtype, self._cut
        divisor = self._ranks.size if self._reduce == "mean" else 1
        self._part = min(_PART, max(-(-cut.longest() // GRAIN) * GRAIN, GRAIN))
        self._adding, self._numbers = Adding(divisor), settings.plan.numbers
        bucket = bucket_bytes // dtype.itemsize
        self._buckets = Buckets(self._nodes, cut, dtype, bucket, self._part, divisor)
        # a norm is formed before the first element; sums of 16 bits are formed in float32
        plan = settings.plan
        late = plan.norm == "" and not plan.accumulate and dtype.itemsize > 2
        self._at_once = self._ranks.size == 1 or not late
        if not self._at_once:
            backend.cut_parts(self._part)
            backend.compile_sums(self._ranks.size == 2 and divisor == 1)

    def step(self, grads: Any = None, *, lr: float | None = None) -> None:
        """Add up the gradients of all ranks and take one step. Collective.

        Parameters
        ----------
        grads : array or nesting of arrays, optional
            This rank's gradients, in the structure, shapes and dtype of `params`; not modified.
            Arrays in another than C order are copied; with shared parameters all are copied, into
            `grads` of the optimiser. Default: these.
        lr : float, optional
            Learning rate of this call only, the same on all ranks.

        Raises
        ------
        TypeError, ValueError
            Before anything is written; on the other ranks `RankError`.
        RankError
            Where another rank refused its arguments, or lr, t or hyperparameters differ.
        FloatingPointError
            On all ranks, where ``nonfinite="raise"`` asks for it.

        Notes
        -----
        When it returns, `params` are complete, and the gradients may be overwritten. Ctrl-C waits
        for the end of the step.
        """
        shard = parts_of(self._shard)
        with defer_interrupts(), shard.lock:
            error, sources, rate = None, list[Any](), 0.0
            try:
                self._refuse_unusable()
                sources, rate = self._gradients.sources(grads), self._rate(lr)
            except Exception as caught:
                error = caught
            self._agree(error, rate)
            with self._noting_breaks():
                if self._device is not None:
                    self._step_on_device(self._device, sources, lr)
                elif self._at_once:
                    self._step_at_once(sources, lr)
                else:
                    self._step_in_rounds(sources, rate)
                self._barrier()

    def _step_on_device(self, device: OnDevice, sources: Sequence[Any], lr: float | None) -> None:
        """Form all sums, then step, then pass on: a GPU has no cache in which sums could stay."""
        sums, t = device.total(sources), self._shard.t
        try:
            self._shard.step(self._active.unflatten(sums), lr=lr)
        finally:
            if self._shard.t != t:
                self._pass_on()

    def _step_in_rounds(self, sources: Sequence[Flat], rate: float) -> None:
        """Step each bucket while the next one is on its way; sums are formed as they are needed."""
        buckets, parts = self._buckets, self._parts
        backend: Any = parts_of(self._shard).backend
        shared = self._nodes.each > 1
        own = [] if shared else sources[0].leaves(parts)
        grads = np.array([*map(address_of, own)] if own else [0] * len(parts), np.int64)
        count, node = -(-(self._end - self._begin) // self._part), self._nodes.node
        buckets.begin(sources)
        for k in range(buckets.rounds):
            low, high, arrived = buckets.arrived(k)
            if high > low:
                done = (low - self._begin) // self._part
                left = max(count + (self._begin - high) // self._part, 0)
                here = [one.read(low, high, None) for one in sources] if shared else []
                first = (low - self._begin) * self._numbers
                before = [arrived[other] for other in sorted(arrived) if other < node]
                after = [arrived[other] for other in sorted(arrived) if other > node]
                self._adding.set(first, before, here, after)
                backend.step_parts(done, left, grads, self._adding, rate)
            buckets.done(k)
            buckets.spread(k, self._flat)
        if count == 0:  # t advances where there is nothing to step, too
            backend.step(self._flat.leaves(parts), rate)
        buckets.settle(self._flat)

    def _step_at_once(self, sources: Sequence[Flat], lr: float | None) -> None:
        """Form all sums, then step as in one process."""
        if self._ranks.size == 1:
            grads = self._active.unflatten(sources[0].leaves(self._parts))
        else:
            if self._sum is None:
                self._sum = np.empty(self._end - self._begin, self._leaves[0].dtype)
            self._buckets.begin(sources)
            for k in range(self._buckets.rounds):
                self._buckets.add_up(k, self._sum)
                self._buckets.done(k)
            grads = self._shard_views(self._sum)
        t = self._shard.t
        try:
            self._shard.step(grads, lr=lr)
        finally:
            if self._shard.t != t:
                self._pass_on()

    def _shard_views(self, values: np.ndarray) -> Any:
        """Parts of a flat array as the arrays of the shard, in their nesting."""
        views, at = [], 0
        for low, high in self._parts:
            views.append(values[at : at + high - low])
            at += high - low
        return self._active.unflatten(views)

    def _pass_on(self) -> None:
        """Give this rank's part of the parameters to the other nodes, and take theirs."""
        if self._device is not None:
            self._device.spread()
            return
        if self._nodes.count == 1:
            return
        for k in range(self._buckets.rounds):
            self._buckets.spread(k, self._flat)
        self._buckets.settle(self._flat)

    def _barrier(self) -> None:
        """Wait until the ranks of this node have written their parts, and see them."""
        if self._nodes.each > 1:
            self._gradients.sync()
            self._nodes.local.Barrier()
            self._gradients.sync()

    def _refuse_unusable(self) -> None:
        if self._broken:
            raise RuntimeError(
                f"Sharded: a step was cut short by {self._broken}, and the parameters are a mixture"
                " of two steps. Make a new optimiser from the last checkpoint."
            )
        self._refuse_replaced()

    def _refuse_replaced(self) -> None:
        now = self._tree.flatten(self._params, "params")
        for leaf, known, name in zip(now, self._leaves, self._tree.names("params"), strict=True):
            if leaf is not known:
                raise ValueError(
                    f"{name}: was replaced by another object, but the optimiser holds the array "
                    f"that was there. Write into that: {name}[...] = x."
                )

    def _rate(self, lr: float | None) -> float:
        """The learning rate of this step; values of other schedules go into the control block."""
        settings, t = parts_of(self._shard).settings, self._shard.t
        if lr is None:
            return settings.rate(t)
        settings.refresh(t)
        if not is_plain(settings.lr):
            raise ValueError("lr: this optimiser has a step size for each array; leave it out.")
        return LR.check(lr)

    def _agree(self, error: BaseException | None, rate: float) -> None:
        """Go on where all ranks can; the first barrier of a step."""
        if self._ranks.size == 1:
            if error is not None:
                raise error
            return
        ranks, t = self._ranks, self._shard.t
        numbers = np.append(parts_of(self._shard).settings.control[0], rate)
        rows = np.zeros((ranks.size, 3), np.int64)
        rows[ranks.rank] = error is not None, t, zlib.crc32(numbers.tobytes())
        self._gradients.sync()
        came = ranks.share(rows, None if error is None else LEFT_ALONE)
        self._gradients.sync()
        if not came and error is not None:
            ranks.abort(f"step: the other ranks did not come. {described(error)}")
        if rows[:, 0].any():
            ranks.tell(error, rows[:, 0] != 0, "step")
        unlike = np.flatnonzero((rows != rows[0]).any(1))
        if len(unlike):
            raise RankError(
                f"step: t, lr or a hyperparameter of rank {unlike[0]} is not that of rank 0 (t is "
                f"{rows[unlike[0], 1]} and {rows[0, 1]}). Set them on all ranks alike, and make "
                "schedules functions of t alone."
            )

    @contextmanager
    def _noting_breaks(self) -> Iterator[None]:
        """Note an error after which the parameters are not those of one step."""
        try:
            yield
        except FloatingPointError:
            raise  # the guard's: nothing was changed
        except BaseException as error:
            self._broken = described(error)
            raise

    def save(self, path: str | os.PathLike[Any]) -> None:
        """Write parameters, state, counters and options into a folder, of one moment. Collective.

        Each rank writes its part. The folder has the checkpoint that was there or the new one,
        complete on all ranks, whatever happens; any number of ranks loads it, `numadam.load` too.

        Parameters
        ----------
        path : str or path-like
            The folder, the same on all ranks, on a file system that they share; it is made where
            there is none.

        Raises
        ------
        TypeError
            Where an option holds a function of the user's.
        OSError
            Where a rank cannot write; on the other ranks `RankError`.
        """
        shard, place = self._shard, self._nodes
        with parts_of(shard).lock:
            first = place.node == place.place == 0
            shards.save(shard, path, self._ranks, lambda: self._held(first), self._refuse_unusable)

    def load(self, path: str | os.PathLike[Any]) -> None:
        """Take over all of a folder that `save` wrote, on any number of ranks. Collective.

        Everything is checked on all ranks first: then all of it is taken over, or nothing.

        Parameters
        ----------
        path : str or path-like
            The folder; one of `Optimizer.save` with `comm`, too, where it has offsets.

        Raises
        ------
        numadam.CheckpointError
            Where a file is damaged, or does not fit; on other ranks maybe `RankError`.
        OSError
            Where it cannot be read.
        """
        shard = self._shard
        with defer_interrupts(), parts_of(shard).lock:
            shards.load(shard, path, self._ranks, self._held, self._refuse_replaced)
            self._pass_on()
            self._barrier()
            self._broken = ""

    def _held(self, saver: bool | None = None) -> held.Held:
        """What checkpoints need to know of this rank's part."""
        paths = self._tree.paths()
        return held.of_slices(self._params, paths, self._slices, self._frozen, saver)

    def check_equal(self) -> None:
        """Compare the parameters of all ranks bit by bit (by sums over their bits). Collective.

        Raises
        ------
        RankError
            On all ranks, with the name of the first array that differs.
        """
        check_values(self._ranks, self._leaves, self._tree.names("params"))

    def flush(self) -> bool:
        """Take a step with the mean of the gradients that `accumulate` has added. Collective.

        Returns whether there were any.
        """
        with defer_interrupts():
            went = self._shard.flush()
            if went:
                self._pass_on()
            self._barrier()
        return went

    def discard(self) -> None:
        """Drop the gradients that `accumulate` has added up so far, on all ranks alike."""
        self._shard.discard()

    def reset(self) -> None:
        """Begin anew, as `reset` of the optimiser's class. Collective."""
        with defer_interrupts():
            self._shard.reset()
            self._pass_on()
            self._barrier()

    @property
    def shard(self) -> Optimizer:
        """The optimiser of this rank's part; its arrays are flat slices of `params`."""
        return self._shard

    @property
    def params(self) -> Any:
        """The parameters, as they were passed: the arrays themselves."""
        return self._params

    @property
    def grads(self) -> Any:
        """Gradient buffers of this rank, in the structure of the parameters.

        Write into them (``opt.grads["w"][...] = g``) and call `step` without an argument. They
        start as zeros, in one flat buffer; with shared parameters the neighbours read them there.
        """
        return self._gradients.buffers

    @property
    def state(self) -> Any:
        """State arrays and t of this rank's part: reading returns views, assignment copies."""
        return self._shard.state

    @property
    def averaged(self) -> Any:
        """Running average (option `ema`) of this rank's part, as new flat arrays."""
        return self._shard.averaged

    @property
    def t(self) -> int:
        """Steps taken so far. May be set, on all ranks alike."""
        return self._shard.t

    @t.setter
    def t(self, steps: int) -> None:
        self._shard.t = steps

    @property
    def lr(self) -> Any:
        """The learning rate, as of the optimiser's class. May be set, on all ranks alike."""
        return self._shard.lr

    @lr.setter
    def lr(self, value: Any) -> None:
        self._shard.lr = value

    @property
    def grad_norm(self) -> Any:
        """Norm of the last summed gradients, as of the optimiser's class."""
        return self._shard.grad_norm

    @property
    def skipped(self) -> int:
        """Steps skipped by ``nonfinite="skip"`` so far."""
        return self._shard.skipped

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self._ranks.rank

    @property
    def ranks(self) -> int:
        """The number of processes."""
        return self._ranks.size

    @property
    def transport(self) -> str:
        """How arrays go between ranks: "mpi"; of CuPy arrays also "nccl" or "host"."""
        return "mpi" if self._device is None else self._device.transport

    @property
    def nodes(self) -> int:
        """Machines with parameters of their own: the number of ranks with plain arrays."""
        return self._nodes.count

    def __getattr__(self, name: str) -> Any:
        """Hyperparameters and options of the optimiser's class."""
        if not name.startswith("_") and _is_option(type(self._shard), name):
            return getattr(self._shard, name)
        raise AttributeError(f"Sharded has no attribute {name!r}. {_about(name)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or hasattr(type(self), name):
            super().__setattr__(name, value)
        elif _is_option(type(self._shard), name):
            setattr(self._shard, name, value)
        else:
            raise AttributeError(f"Sharded has no attribute {name!r} to set. {_about(name)}")

    def __dir__(self) -> list[str]:
        kind = type(self._shard)
        return [*super().__dir__(), *(name for name in dir(kind) if _is_option(kind, name))]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "Sharded: its parts lie on several ranks, so it cannot be copied or pickled on one. "
            "Write a checkpoint, opt.save(folder), or copy opt.params and opt.state on every rank."
        )

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__reduce__()

    def __repr__(self) -> str:
        """The shard's class and options, the ranks, t, and all parameters."""
        # of which the last option is comm
        own = repr(self._shard).partition("comm=")[0].removesuffix(", ") + ")"
        return (
            f"Sharded({own}, rank {self.rank} of {self.ranks}, {self._nodes.count} x "
            f"{self._nodes.each}, t={self.t}; {formatting.outline(self._leaves)})"
        )


def _plain(leaf: Any) -> Any:
    """An array without its subclass."""
    return leaf if is_cupy(leaf) else np.ndarray.view(leaf, np.ndarray)


def _is_option(kind: type[Any], name: str) -> bool:
    """Whether a class has a hyperparameter or option of this name."""
    return isinstance(getattr(kind, name, None), (fixed, hyper))


def _about(name: str) -> str:
    return f"This rank's part of the optimiser is opt.shard: is opt.shard.{name} what you need?"


def _check_arguments(kind: Any, reduce: Any, bucket_bytes: Any, options: dict[str, Any]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise TypeError(f"kind: expected a class such as numadam.Adam, got {kind!r:.80}.")
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce: expected 'sum' or 'mean', got {reduce!r}.")
    whole = isinstance(bucket_bytes, int) and not isinstance(bucket_bytes, bool)
    if not whole or not 1 <= bucket_bytes <= _MOST_BYTES:
        raise ValueError(
            f"bucket_bytes: expected a whole number from 1 to 2**30, got {bucket_bytes!r}."
        )
    refuse(options)

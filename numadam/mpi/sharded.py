"""`numadam.mpi.Sharded`: parameters that all ranks hold, with a state that is shared out.

What a step does is in `_mpi/ranks.py`, `_mpi/slices.py` and `_mpi/steps.py`; here is what users
see.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack

from numadam._arrays import formatting
from numadam._core.hyper import Rate, Reduce, Transport, check_choice
from numadam._core.options import DEFAULTS
from numadam._core.parts import parts_of
from numadam._jit.process import defer_interrupts
from numadam._mpi.cut import REFUSED
from numadam._mpi.ranks import agree, described, ranks_of
from numadam._mpi.slices import Placement, Whole
from numadam._mpi.steps import Steps
from numadam._mpi.transport import check_asked
from numadam._mpi.windows import check_same, check_values
from numadam._optimizer import shards
from numadam._optimizer.attributes import option
from numadam._optimizer.optimizer import Optimizer

if TYPE_CHECKING:
    from numadam._core.keywords import ShardedOptions as Options


def _is_option(kind: type[Any], name: str) -> bool:
    """Whether a class has a hyperparameter or option of this name."""
    return isinstance(getattr(kind, name, None), option)


def _about(name: str) -> str:
    return f"This rank's part of the optimiser is opt.shard: is opt.shard.{name} what you need?"


# --- `numadam.mpi.Sharded` -----------------------------------------------------------------------

Value = TypeVar("Value")

_MOST_BYTES = 2**30
_MAKING = "Sharded"


class Sharded:
    r"""Optimiser of parameters that every rank holds; each rank steps its part.

    .. math:: g = \sum_{r=0}^{N-1} g_r, \qquad p = \text{step of } kind(p, g)

    Each rank computes its own gradient of all parameters; their sum (or mean) is used. A rank has
    only the state (m, v, ...) of its part and steps that part; then every rank gets all
    parameters. With N ranks, float32 and Adam a rank needs ``8 + 8/N`` bytes a parameter, and
    sends ``2 (N-1)/N`` times its parameters a step. If `params` are arrays of `shared_array`, each
    machine has them once, its k ranks need ``4 + 12/k`` bytes each, and nothing is copied;
    messages are sent between machines only.

    Collective: the constructor and `step`, `reset`, `check_equal`, by all ranks of `comm`.

    Parameters
    ----------
    kind : class
        Class of the optimiser: `Adam`, `AdamW`, `SGD`, ...
    params : array or nesting of arrays
        NumPy or CuPy arrays in C order with the same values on all ranks; changed in place. All
        are plain arrays, or all are made by `shared_array`, then with equally many ranks on each
        machine.
    comm : mpi4py.MPI.Intracomm
        A private duplicate of it is used.
    lr : float, callable, array or nesting, optional
        As in `kind`.
    reduce : {"sum", "mean"}, default "sum"
        How the gradients of all ranks are combined.
    bucket_bytes : int, default 2 MiB
        Bytes of gradients that a rank receives at a time from all other machines.
    transport : {"auto", "mpi", "host"}, default "auto"
        How CuPy arrays are sent between ranks: by an MPI that accepts GPU memory ("mpi"), or
        through the memory of the host ("host"). "auto" uses "mpi" if every rank has such an MPI.
    **options
        Options of `kind`, the same on all ranks. `clip_norm`, `clip_array_norm` and `nonfinite`
        apply to the summed gradients. `sparse` and `comm` raise an error.

    Attributes
    ----------
    shard : Optimizer
        The optimiser of this rank's part. Its arrays are flat slices of `params` in their nesting,
        some of them empty.
    rank, ranks : int
    nodes : int
        Machines that hold their own parameters: the number of ranks with plain arrays.

    Raises
    ------
    TypeError, ValueError
        As `kind`, and if params differ between ranks. It is raised on all ranks, and nothing is
        written.
    RankError
        If another rank refused its arguments.

    Notes
    -----
    Sums are formed in the order of the ranks (with several machines: of the ranks of each, then of
    the machines), so all ranks have the same bits, in every run, and those of one process that adds
    up the gradients in this order.

    If you write parameters between steps, write the same on all ranks, shared ones on one rank;
    `check_equal` compares them. lr, schedules and hyperparameters must be the same on all ranks,
    too, which every step checks.

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
    _shard: Optimizer

    def __init__(
        self,
        kind: type[Optimizer],
        params: Any,
        comm: Any,
        *,
        lr: Rate | None = None,
        reduce: Reduce = "sum",
        bucket_bytes: int = 2 * 2**20,
        transport: Transport = "auto",
        **options: Unpack[Options],
    ) -> None:
        self._ranks, self._broken = ranks_of(comm), ""
        with self._ranks.all_or_none(_MAKING):
            _check_arguments(kind, reduce, bucket_bytes, options)
            whole = Whole(params, options.get("groups"), kind.rule)
            check_asked(transport, whole.home)
        about = (kind.__name__, reduce, bucket_bytes, transport, *whole.about())
        check_same(self._ranks, about, "Sharded: class, params or options")
        self._place = place = Placement(self._ranks, whole, _MAKING)
        with self._ranks.all_or_none(_MAKING):
            own, digests = place.options(lr, options)
        check_same(self._ranks, tuple(digests), "Sharded: lr or bounds")
        make: Any = kind  # whose options are those of its rule
        with self._ranks.all_or_none(_MAKING):
            self._shard = make(place.own(), comm=comm, **own)
        divisor = self._ranks.size if reduce == "mean" else 1
        with self._ranks.all_or_none(_MAKING):
            self._steps = Steps(place, self._shard, bucket_bytes, divisor, transport)
        if options.get("bounds") is not None:  # the shard has moved parameters into them
            self._steps.spread()
        self._steps.barrier()

    def step(self, grads: Any = None, *, lr: float | None = None) -> None:
        """Add up the gradients of all ranks and take one step. Collective.

        Parameters
        ----------
        grads : array or nesting of arrays, optional
            This rank's gradients, in the structure, shapes and dtype of `params`; not modified.
            Arrays that are not in C order are copied; with shared parameters all are copied, into
            `grads` of the optimiser. Default: these.
        lr : float, optional
            Learning rate of this call only, the same on all ranks.

        Raises
        ------
        TypeError, ValueError
            Before anything is written; on the other ranks `RankError`.
        RankError
            If another rank refused its arguments, or lr, t or hyperparameters differ.
        FloatingPointError
            On all ranks, where ``nonfinite="raise"`` asks for it.

        Notes
        -----
        When it returns, `params` are complete, and the gradients may be overwritten. Ctrl-C waits
        for the end of the step.
        """

        def prepare() -> tuple[float, Callable[[], None]]:
            sources = self._steps.gradients.sources(grads)
            rate = parts_of(self._shard).settings.rate(self.t, lr)
            return rate, lambda: self._steps.step(sources, rate, lr)

        self._on_all("step", prepare)

    def _refuse_unusable(self) -> None:
        if self._broken:
            raise RuntimeError(
                f"Sharded: a step was cut short by {self._broken}, and the parameters are a mixture"
                " of two steps. Make a new optimiser from the last checkpoint."
            )
        self._place.whole.refuse_replaced()

    def _on_all(self, what: str, prepare: Callable[[], tuple[float, Callable[[], Value]]]) -> Value:
        """Work on all ranks where all can, up to the barrier of a node.

        `prepare` checks what this rank has, and returns the learning rate and the work.
        """
        parts, error, rate = parts_of(self._shard), None, 0.0
        with defer_interrupts(), parts.lock:
            try:
                self._refuse_unusable()
                rate, work = prepare()
            except BaseException as caught:
                error = caught
            agree(self._ranks, parts, what, error, rate, self._steps.gradients.sync)
            try:
                result = work()
                self._steps.barrier()
            except FloatingPointError:
                raise  # the guard's: nothing was changed
            except BaseException as caught:  # the parameters are not those of one step
                self._broken = described(caught)
                raise
            return result

    def save(self, path: str | os.PathLike[Any]) -> None:
        """Write parameters, state, counters and options of this step to a folder. Collective.

        Each rank writes its part. Whatever happens, the folder has the old checkpoint or the new
        one, complete on all ranks. Any number of ranks can load it, and so can `numadam.load`.

        Parameters
        ----------
        path : str or path-like
            The folder, the same on all ranks, on a file system that they share; it is created if
            needed.

        Raises
        ------
        TypeError
            If an option is the user's own function.
        OSError
            If a rank cannot write; on the other ranks `RankError`.
        """
        shard, place = self._shard, self._place
        with parts_of(shard).lock:
            saver = place.nodes.node == place.nodes.place == 0
            held = partial(shards.of_slices, place, saver)
            shards.save(shard, path, self._ranks, held, self._refuse_unusable)

    def load(self, path: str | os.PathLike[Any]) -> None:
        """Load a folder that `save` wrote, on any number of ranks. Collective.

        Everything is checked on all ranks first; then all of it is loaded, or nothing.

        Parameters
        ----------
        path : str or path-like
            The folder; also one of `Optimizer.save` with `comm`, if it has offsets.

        Raises
        ------
        numadam.CheckpointError
            If a file is damaged or does not fit; on other ranks possibly `RankError`.
        OSError
            If it cannot be read.
        """
        shard, place = self._shard, self._place
        with defer_interrupts(), parts_of(shard).lock:
            held = partial(shards.of_slices, place)
            shards.load(shard, path, self._ranks, held, place.whole.refuse_replaced)
            self._steps.spread()
            self._steps.barrier()
            self._broken = ""

    def check_equal(self) -> None:
        """Compare the parameters of all ranks bit by bit (by sums over their bits). Collective.

        Raises
        ------
        RankError
            On all ranks, with the name of the first array that differs.
        """
        check_values(self._ranks, self._place.whole.leaves, self._place.whole.names)

    def reset(self) -> None:
        """Restart, as `reset` of the optimiser's class. Collective.

        Raises
        ------
        ValueError, RankError
            If a container of the parameters was changed on a rank; then nothing is written.
        """

        def work() -> None:
            self._shard.reset()
            self._steps.spread()

        def prepare() -> tuple[float, Callable[[], None]]:
            parts_of(self._shard).backend.check()
            return 0.0, work

        self._on_all("reset", prepare)

    @property
    def shard(self) -> Optimizer:
        """The optimiser of this rank's part; its arrays are flat slices of `params`."""
        return self._shard

    @property
    def params(self) -> Any:
        """The parameters, as they were passed: the arrays themselves."""
        return self._place.whole.params

    @property
    def grads(self) -> Any:
        """Gradient buffers of this rank, in the structure of the parameters.

        Write into them (``opt.grads["w"][...] = g``) and call `step` without an argument. They
        start as zeros, in one flat buffer; with shared parameters the neighbours read them there.
        """
        return self._steps.gradients.buffers

    @property
    def state(self) -> Any:
        """State arrays and t of this rank's part: reading returns views, assignment copies."""
        return self._shard.state

    @state.setter
    def state(self, value: Any) -> None:
        self._shard.state = value

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
        """Transport of arrays between ranks: "mpi"; for CuPy arrays also "host"."""
        return self._steps.transport

    @property
    def nodes(self) -> int:
        """Machines with their own parameters: the number of ranks with plain arrays."""
        return self._place.nodes.count

    def __getattr__(self, name: str) -> Any:
        """Hyperparameters and options of the optimiser's class."""
        if not name.startswith("_") and (
            # a property that has raised AttributeError raises it again
            hasattr(type(self), name) or _is_option(type(self._shard), name)
        ):
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

    def __repr__(self) -> str:
        """The shard's class and options, the ranks, t, and all parameters."""
        # of which the last option is comm
        own = repr(self._shard).partition("comm=")[0].removesuffix(", ") + ")"
        nodes, leaves = self._place.nodes, self._place.whole.leaves
        return (
            f"Sharded({own}, rank {self.rank} of {self.ranks}, {nodes.count} x {nodes.each}, "
            f"t={self.t}; {formatting.outline(leaves)})"
        )


def _check_arguments(kind: Any, reduce: Any, bucket_bytes: Any, options: Mapping[str, Any]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise TypeError(f"kind: expected a class such as numadam.Adam, got {kind!r:.80}.")
    check_choice("reduce", reduce, Reduce)
    whole = isinstance(bucket_bytes, int) and not isinstance(bucket_bytes, bool)
    if not whole or not 1 <= bucket_bytes <= _MOST_BYTES:
        raise ValueError(
            f"bucket_bytes: expected a whole number from 1 to 2**30, got {bucket_bytes!r}."
        )
    for name, problem in REFUSED.items():
        if options.get(name, DEFAULTS[name]) != DEFAULTS[name]:
            raise ValueError(f"{name}: {problem}")

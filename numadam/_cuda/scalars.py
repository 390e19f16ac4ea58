"""The scalars of a step: computed on the host and passed by value, or computed on the GPU.

By value they cost a thread no register, and no kernel before the step. On the GPU they are
computed where the host cannot know them (the GPU alone counts the steps), and for several groups.
Options and counters are copied to the GPU without a wait of the host.
"""

from __future__ import annotations

import math
import threading
import weakref
from functools import partial
from typing import Any

import numpy as np
from numba import float64, int64

from numadam._core.plan import Plan
from numadam._core.scalars import (
    loop_start,
    make_advance_row,
    make_fill_row,
    make_products,
    product_width,
    start_products,
    width_of,
)
from numadam._cuda import launch as policy
from numadam._cuda.arrays import address_of
from numadam._cuda.compiler import compiled
from numadam._cuda.kernel import COUNTERS, control_width, make_prepare
from numadam._cuda.launch import Launch, is_capturing
from numadam._jit.functions import jit_once
from numadam._jit.loops import compiled_loop
from numadam._jit.pointers import array_at

# --- copies to the GPU ---------------------------------------------------------------------------


#: The pinned buffers of all uploads, each with the event behind the copy from it. They are held
#: here, since the collector may finalize an event before the upload that refers to it.
_buffers: list[tuple[weakref.ref[Upload], Any, Any]] = []
_lock = threading.Lock()


class Upload:
    """Keeps an array on the GPU equal to one of the host, which never waits for the copy.

    The copy takes place later, in the order of the stream. Until then its source stays in pinned
    memory, in one of `SLOTS` buffers: only if the host is so many uploads ahead does it wait. CuPy
    reuses pinned memory as soon as it is released, so the buffers outlive an upload until the
    copies from them are done.
    """

    SLOTS = 4

    def __init__(self, target: Any) -> None:
        self._target = target
        self._slots: list[tuple[Any, Any]] = []
        self._sent, self._next = b"", 0

    def __call__(self, numbers: np.ndarray) -> None:
        """Bring the target up to date, if anything has changed since the last time."""
        import cupy

        content = numbers.tobytes()
        if content == self._sent:
            return
        stream = cupy.cuda.get_current_stream()
        if is_capturing():
            raise RuntimeError(
                "step: a graph is being captured, and arrays or options are others than in the "
                "last step. Take one step with these arrays and options before the capture."
            )
        pinned, event = self._slot()
        pinned[...] = numbers.reshape(pinned.shape)
        self._sent = b""  # after an interrupt the next call uploads again
        self._target.set(pinned, stream=stream)
        event.record(stream)
        self._sent = content

    def has(self, numbers: np.ndarray) -> bool:
        """Whether the target is up to date."""
        return numbers.tobytes() == self._sent

    def _slot(self) -> tuple[Any, Any]:
        import cupy

        if len(self._slots) < self.SLOTS:
            pinned = empty_pinned(self._target.shape, self._target.dtype)
            event = cupy.cuda.Event(disable_timing=True)
            with _lock:
                _release_unused()
                _buffers.append((weakref.ref(self), pinned, event))
            self._slots.append((pinned, event))
            return pinned, event
        self._next = (self._next + 1) % self.SLOTS
        pinned, event = self._slots[self._next]
        event.synchronize()
        return pinned, event


def empty_pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Uninitialized array in pinned memory.

    As `cupyx.empty_pinned`, which one of two threads does not find where both load cupyx at once
    (python/cpython#114763).
    """
    import cupy

    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, cupy.cuda.alloc_pinned_memory(nbytes))


def _release_unused() -> None:
    """Release the buffers of deleted uploads, if the copies from them are done."""
    _buffers[:] = [buffer for buffer in _buffers if buffer[0]() is not None or not buffer[2].done]


# --- control block and counters ------------------------------------------------------------------


class DeviceControl:
    """The control block on the GPU, brought up to date from the host's, and the counters.

    `saved` is what a snapshot copies. The GPU is the current one in all methods.
    """

    def __init__(self, control: np.ndarray) -> None:
        import cupy

        self.host, self.groups = control, len(control)
        self._block = cupy.zeros(control.shape, np.float64)
        # CuPy has no records: they are int64 there
        self._counters = cupy.zeros(COUNTERS.itemsize // 8, np.int64)
        self._upload, self.saved = Upload(self._block), [self._counters]
        self.address, self.counters_address = map(address_of, (self._block, self._counters))

    def upload(self) -> None:
        """Bring the control block up to date, if an option has changed."""
        self._upload(self.host)

    def read_counters(self) -> Any:
        """The counters as they are now, a record: the host waits for the GPU."""
        import cupy

        return np.array(cupy.asnumpy(self._counters)).view(COUNTERS).view(np.recarray)[0]

    def write_counters(self, counters: Any) -> None:
        """Replace the counters."""
        self._counters.set(np.array(counters, COUNTERS).reshape(1).view(np.int64))

    def are_finite(self) -> bool:
        """Whether the last gradients were finite: the host waits for the GPU."""
        return bool(self.read_counters().finite)


# --- scalars -------------------------------------------------------------------------------------


_FILL, _ADVANCE = range(2)


class HostScalars:
    """The scalars of the only group, computed on the host: `values`, a kernel's last arguments.

    `group` is their row of the control block, which is read anew at each step.
    ``prepare(lr, t, n, flushing, counts)`` computes those of step t, of n gradients, which with
    `flushing` 1 are all in the sum already; `counts` is for `DeviceScalars`. Where the host carries
    running products, `advance` is to be called after a step.
    """

    #: where the GPU has running products, and of how many groups: none
    products_address = products_groups = 0

    def __init__(self, plan: Plan, control: np.ndarray, group: int) -> None:
        self.values = np.zeros(width_of(plan), plan.real)
        self._products = start_products(plan, len(control))
        self._carried, self.saved = len(plan.products), [self._products]
        self._control = control  # alive, as it is read by address
        arrays = self.values, control, self._products
        addresses = (int(array.ctypes.data) for array in arrays)
        call, given = _fill_or_advance(plan), (*addresses, len(control), group)
        # straight into compiled code: a method around it would take 0.3 us of each step
        self.prepare = partial(call, _FILL, *given)
        self.advance = partial(call, _ADVANCE, *given, 0.0, 0, 0, 0, 0) if self._carried else None

    def launch_arguments(self, group: int) -> tuple[int, ...]:
        """Arguments of a launch for the scalars of a group, besides `values`: none."""
        return ()

    def read_products(self) -> np.ndarray:
        """Running products of the rule, for each row of the control block."""
        return self._products[:, : self._carried].copy()

    def load_products(self, products: np.ndarray | float) -> None:
        """Replace the running products."""
        self._products[:, : self._carried] = products


def _fill_or_advance(plan: Plan) -> Any:
    """``call(what, values, control, products, groups, group, lr, t, n, flushing, counts)``."""
    name = f"{plan.name}-row"

    def make() -> Any:
        fill_row, advance_row = make_fill_row(plan), make_advance_row(plan, jit_once)
        find_products, count = make_products(plan), product_width(plan)
        width, wide = width_of(plan), control_width(plan)
        real, scale = plan.real.type, loop_start(plan)

        def call(  # type: ignore[no-untyped-def]  # Numba types it
            what, values, control, products, groups, group, lr, t, n, flushing, counts
        ):
            rows = array_at(control, (groups, wide), np.float64)
            q = array_at(products, (groups, count), np.float64)
            if what == _FILL:
                out = array_at(values, width, real)
                for r in range(groups):
                    find_products(q[r], rows[r], float(t))
                fill_row(out, rows[group], q[group], lr, float(t), float(n))
                if flushing != 0:
                    out[scale] = 1.0
            else:
                for r in range(groups):
                    advance_row(q[r])
            return 0

        call.__qualname__ = f"{name}.call"
        return call, call

    i8 = int64
    signature = int64(i8, i8, i8, i8, i8, i8, float64, i8, i8, i8, i8)
    return compiled_loop(name, make, signature).serial


class DeviceScalars:
    """The scalars of any number of groups, computed on the GPU.

    `rate` is a 0-d array there from which each step reads lr, or None. Its methods are called while
    the GPU is the current one.
    """

    #: none are passed by value
    values = None
    #: the kernel that counts a step advances the running products
    advance = None
    #: of the step that was prepared
    lr = math.nan

    def __init__(self, plan: Plan, control: DeviceControl, device: int, rate: Any) -> None:
        import cupy

        groups = control.groups
        self._control = control
        start = start_products(plan, groups)
        self._products = cupy.asarray(start) if start.size else cupy.zeros((groups, 1))
        self._carried, self.saved = len(plan.products), [self._products]
        self._rows = cupy.zeros((groups, width_of(plan)), plan.real)
        self._rate = cupy.zeros((), np.float64) if rate is None else rate
        self._launch = Launch(*compiled(make_prepare, device, plan, self._rate.dtype))
        rows, products, lr = map(address_of, (self._rows, self._products, self._rate))
        self._first = rows, control.address, products, control.counters_address, groups, lr
        self._threads, self._rows_address = min(policy.THREADS, groups), rows
        self._row_bytes = width_of(plan) * plan.real.itemsize
        self.products_address, self.products_groups = products, groups

    def prepare(self, lr: float, t: int, n: int, flushing: int, counts: int) -> None:
        """Compute the scalars of step t, of n gradients; t 0: the step after those counted.

        lr NaN stands for the array. `flushing` 1: all gradients are in the sum already. `counts`
        1: no norm may stop the step, and it is counted now.
        """
        self._control.upload()
        self.lr = lr
        self._launch(1, self._threads, (*self._first, lr, t, float(n), counts, flushing))

    def launch_arguments(self, group: int) -> tuple[int, ...]:
        """Arguments of a launch for the scalars of a group: their address."""
        return (self._rows_address + group * self._row_bytes,)

    def read_products(self) -> np.ndarray:
        """Running products of the rule, for each row of the control block."""
        import cupy

        return np.array(cupy.asnumpy(self._products[:, : self._carried]))

    def load_products(self, products: np.ndarray | float) -> None:
        """Replace the running products."""
        import cupy

        rows = cupy.asnumpy(self._products)
        rows[:, : self._carried] = products
        self._products.set(rows)


Scalars = HostScalars | DeviceScalars

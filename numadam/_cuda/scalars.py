"""The scalars of a step: computed on the host, and passed by value or copied without a wait."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numba import from_dtype, njit, types

from numadam._core.plan import Plan
from numadam._core.text import Text, function_text, scope_of
from numadam._cuda.arrays import address_of
from numadam._jit.build import compiled

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
        pinned, event = self._slot()
        pinned[...] = numbers.reshape(pinned.shape)
        self._sent = b""  # after an interrupt the next call uploads again
        self._target.set(pinned, stream=stream)
        event.record(stream)
        self._sent = content

    def _slot(self) -> tuple[Any, Any]:
        import cupy

        if len(self._slots) < self.SLOTS:
            # not cupyx.empty_pinned, which one of two threads does not find where both load cupyx
            # at once (python/cpython#114763)
            memory = cupy.cuda.alloc_pinned_memory(self._target.nbytes)
            pinned = np.ndarray(self._target.shape, self._target.dtype, memory)
            event = cupy.cuda.Event(disable_timing=True)
            with _lock:
                # those of deleted uploads go, if the copies from them are done
                _buffers[:] = [one for one in _buffers if one[0]() is not None or not one[2].done]
                _buffers.append((weakref.ref(self), pinned, event))
            self._slots.append((pinned, event))
            return pinned, event
        self._next = (self._next + 1) % self.SLOTS
        pinned, event = self._slots[self._next]
        event.synchronize()
        return pinned, event


# --- scalars -------------------------------------------------------------------------------------


class Scalars:
    """The scalars of a step, computed on the host.

    Those of the only group are `values`, a kernel's last arguments: they cost a thread no register.
    Those of several groups, with rows that count by themselves too, lie in a table on the GPU.

    ``prepare(lr, t)`` computes those of step t from the control block as it is then; call `advance`
    after a step of an optimiser. `saved` is what a snapshot copies. The GPU is the current one in
    all methods.
    """

    def __init__(
        self,
        plan: Plan,
        control: np.ndarray,
        groups: Sequence[int],
        products: np.ndarray | None = None,
    ) -> None:
        one = len(set(groups)) == 1 and not plan.by_row
        first, count = (groups[0], 1) if one else (0, len(control))
        rows = np.zeros((count, len(Text(plan).scalars)), plan.real)
        self._carried = len(plan.products)
        if products is None:
            products = np.ones((len(control), 2 * self._carried))
        self.products, self.saved = products, [products]
        self.values = rows[0] if one else None
        self.lr = math.nan  # of the step that was prepared, where there is a table
        here = slice(first, first + count)
        given = rows, control[here], self.products[here]
        # straight into compiled code: a method around it would take 0.3 us of each step
        self.prepare: Callable[[float, int], Any] = partial(_fill(plan), *given)
        if not one:
            self._make_table(rows)

    def _make_table(self, rows: np.ndarray) -> None:
        """Make `prepare` bring the rows to a table on the GPU, too."""
        import cupy

        table, fill = cupy.zeros(rows.shape, rows.dtype), self.prepare
        self._first, self._row_bytes = address_of(table), rows[0].nbytes
        upload = Upload(table)

        def prepare(lr: float, t: int) -> None:
            fill(lr, t)
            self.lr = lr
            upload(rows)

        self.prepare = prepare

    def launch_arguments(self, group: int) -> tuple[int, ...]:
        """Arguments of a launch for the scalars of a group, besides `values`: their address."""
        return () if self.values is not None else (self._first + group * self._row_bytes,)

    def advance(self) -> None:
        """Move on the running products, where there are any, after a step."""
        if self._carried:
            self.load_products(self.products[:, self._carried :])

    def read_products(self) -> np.ndarray:
        """Running products of the rule, for each row of the control block."""
        return self.products[:, : self._carried].copy()

    def load_products(self, products: np.ndarray | float) -> None:
        """Replace the running products."""
        self.products[:, : self._carried] = products


_FILL = """\
def fill(rows, control, products, lr, t):
    for k in range(len(rows)):
        fill_row(rows[k], control[k], products[k], t, lr)
"""


def _fill(plan: Plan) -> Any:
    """``fill(rows, control, products, lr, t)``: the scalars of step t, a row for each group."""
    row = function_text("fill_row(row, control, products, t, lr)", Text(plan).fill())
    scope = {"njit": njit, **scope_of(plan, lambda function: function)}
    rows, f8 = from_dtype(plan.real)[:, ::1], types.float64
    signature = types.void(rows, f8[:, ::1], f8[:, ::1], f8, f8)
    what = f"{plan.name}-scalars", f"{row}\n\n\n{_FILL}", scope, signature
    return compiled(*what, entry="fill", keep=not plan.rule.digest)

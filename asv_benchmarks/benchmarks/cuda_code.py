"""Instructions an element and registers of a compiled CUDA step. No GPU is needed."""

import re
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

import numadam
from numadam._bench import peers
from numadam._core.parts import parts_of

#: A compute capability that stands for the GPUs of today.
CAPABILITY = (9, 0)
#: By name a rule and its options.
_STEPS = {
    "Adam": ("Adam", {}),
    "AdamW-clip-ema": ("AdamW", {"weight_decay": 0.01, "clip_norm": 1.0, "ema": 0.999}),
    "Lion": ("Lion", {}),
}


@contextmanager
def pretending(capability):
    """A GPU to compile for: numba-cuda asks the current one, though nothing runs on it."""
    from numba.cuda import dispatcher

    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


def plan_of(rule, options, dtype=np.float32):
    """The plan of an optimiser of one array: the same for the CPU and for a GPU."""
    optimizer = getattr(numadam, rule)(np.zeros(3, dtype), **options)
    return parts_of(optimizer).settings.plan


def step_code(plan, capability=CAPABILITY):
    """PTX instructions of a step over one array, an element, and registers of a thread.

    The kernel has one tile, one element by itself, and what comes before; all are counted.
    """
    from numadam._cuda.compiler import cubin_of, ptx_of, registers_of
    from numadam._cuda.kernel import make_step, step_slots, tile_iterations

    with pretending(capability):
        ptx, _, _ = ptx_of(make_step, capability, plan, True, False, False)
    instructions = re.findall(r"^\t(?!//)(?:@%p\d+ )?[a-z][\w.]*\b.*;$", ptx, re.MULTILINE)
    _, log = cubin_of(ptx, capability)
    tile = tile_iterations(plan, step_slots(plan, False))
    return len(instructions) / (tile + 1), registers_of(log)


class CudaCode:
    params = list(_STEPS)
    param_names = ("step",)
    timeout = 300

    def setup(self, name):
        try:
            peers.need("numba_cuda")
        except peers.Unavailable as error:
            raise NotImplementedError(str(error)) from error
        rule, options = _STEPS[name]
        self.instructions, self.registers = step_code(plan_of(rule, options))

    def track_instructions(self, name):
        return self.instructions

    def track_registers(self, name):
        return self.registers

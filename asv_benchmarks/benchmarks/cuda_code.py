"""Instructions an element and registers of a compiled CUDA step. No GPU is needed."""

import importlib.util

from numadam.bench import ptx

#: By name a rule and its options.
_STEPS = {
    "Adam": ("Adam", {}),
    "AdamW-clip-ema": ("AdamW", {"weight_decay": 0.01, "clip_norm": 1.0, "ema": 0.999}),
    "Adam-bfloat16-state": ("Adam", {"state_dtype": "bfloat16"}),
    "Lion": ("Lion", {}),
}


class CudaCode:
    params = list(_STEPS)
    param_names = ("step",)
    timeout = 300

    def setup(self, name):
        if importlib.util.find_spec("numba_cuda") is None:
            raise NotImplementedError("numba-cuda is not installed")
        rule, options = _STEPS[name]
        self.instructions, self.registers = ptx.step_code(ptx.plan_of(rule, options))

    def track_instructions(self, name):
        return self.instructions

    track_instructions.unit = "PTX instructions an element"

    def track_registers(self, name):
        return self.registers

    track_registers.unit = "registers"

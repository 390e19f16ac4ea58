"""Every rule and option once, with its reference: shared by the simulator, PTX and GPU tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference as ref

import numadam as na


@dataclass(frozen=True)
class Case:
    name: str  # of the optimiser's class
    lr: float
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self):
        options = "-".join(f"{key}={value}" for key, value in self.options.items())
        return "-".join(filter(None, [self.name, options]))

    def make(self, params):
        return getattr(na, self.name)(params, lr=self.lr, **self.options)

    @property
    def rule(self):
        return getattr(na, self.name).rule

    def all_options(self):
        """The options as the engine gets them."""
        defaults = {
            "Adam": {"beta1": 0.9, "beta2": 0.999, "amsgrad": False, "eps_form": "paper"},
            "RMSprop": {"beta2": 0.99},
            "SGD": {"momentum": 0.0, "nesterov": False},
        }[self.name]
        eps = {} if self.name == "SGD" else {"eps": 1e-8}
        return defaults | eps | self.options

    def reference(self, p, grads):
        """(p, state by name) after all steps, in float64."""
        if self.name == "Adam":
            p, m, v, vmax = ref.adam(p, grads, lr=self.lr, **self.options)
            state = {"m": m, "v": v}
            return p, state | ({"vmax": vmax} if self.options.get("amsgrad") else {})
        if self.name == "RMSprop":
            p, v = ref.rmsprop(p, grads, lr=self.lr, **self.options)
            return p, {"v": v}
        p, m = ref.sgd(p, grads, lr=self.lr, **self.options)
        return p, ({"m": m} if self.options.get("momentum") else {})


CASES = [
    Case("Adam", 0.05),
    Case("Adam", 0.05, {"eps_form": "hat"}),
    Case("Adam", 0.05, {"amsgrad": True}),
    Case("Adam", 0.05, {"amsgrad": True, "eps_form": "hat"}),
    Case("RMSprop", 0.02),
    Case("SGD", 0.1),
    Case("SGD", 0.1, {"momentum": 0.9}),
    Case("SGD", 0.1, {"momentum": 0.9, "nesterov": True}),
]

#: Bound between GPU and float64 reference after some ten steps: a few roundings a step.
RTOL = {"float32": 2e-5, "float64": 1e-13}


def gradients(shape, dtype, steps, seed=7):
    """Gradients of many sizes, with zeros among them; the later ones are smaller (for AMSGrad)."""
    random = np.random.default_rng(seed)
    size = 10.0 ** random.uniform(-3, 2, shape)
    keep = random.random(shape) > 0.1
    draws = (random.standard_normal(shape) * size * keep / (t + 1) for t in range(steps))
    return [np.asarray(draw, dtype) for draw in draws]


def check(case, dtype, asarray, asnumpy, shape=(5, 7), steps=6):
    """Steps on the device against the reference."""
    start = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    grads = gradients(shape, dtype, steps)
    p = asarray(start)
    opt = case.make(p)
    for t, g in enumerate(grads, 1):
        opt.step(asarray(g))
        assert opt.t == t
    wanted, state = case.reference(start, grads)
    rtol = RTOL[np.dtype(dtype).name]
    assert p.dtype == dtype
    np.testing.assert_allclose(asnumpy(p), wanted, rtol=rtol, atol=rtol)
    assert set(opt.state) == {"t", *state}
    for name, value in state.items():
        np.testing.assert_allclose(asnumpy(opt.state[name]), value, rtol=rtol, atol=rtol * 1e-3)

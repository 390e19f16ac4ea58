"""The gradient optimiser of pyribs' emitters."""

import functools

import numpy as np
from ribs.archives import GridArchive
from ribs.emitters import GradientArborescenceEmitter
from ribs.emitters.opt import GradientOptBase

import numadam as na


class AdamOpt(GradientOptBase):
    def __init__(
        self,
        theta0,
        lr=0.001,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-8,
        l2_coeff=0.0,
    ):
        self.update = functools.partial(
            na.adam_update,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=epsilon,
            weight_decay=l2_coeff,
            maximize=True,
            like="sklearn",
        )
        self.reset(theta0)

    @property
    def theta(self):
        return self._theta

    def reset(self, theta0):
        self._theta = np.array(theta0)
        self.m = np.zeros_like(self._theta)
        self.v = np.zeros_like(self._theta)
        self.t = 0

    def step(self, gradient):
        self.t += 1
        gradient = np.asarray(gradient, self.theta.dtype)
        self.update(self.theta, gradient, self.m, self.v, self.t)


def solutions(grad_opt):
    archive = GridArchive(
        solution_dim=10, dims=[20, 20], ranges=[(-1, 1), (-1, 1)]
    )
    emitter = GradientArborescenceEmitter(
        archive,
        x0=np.full(10, 0.1),
        sigma0=0.1,
        lr=0.05,
        grad_opt=grad_opt,
        batch_size=20,
        seed=2,
    )
    for _ in range(30):
        for ask, tell in (
            (emitter.ask_dqd, emitter.tell_dqd),
            (emitter.ask, emitter.tell),
        ):
            x = ask()
            f, measures = -np.sum(x**2, axis=1), x[:, :2]
            jacobian = np.zeros((len(x), 3, 10))
            jacobian[:, 0] = -2 * x
            jacobian[:, 1, 0] = jacobian[:, 2, 1] = 1
            extra = {"add_info": archive.add(x, f, measures)}
            if tell == emitter.tell_dqd:
                extra["jacobian"] = jacobian
            tell(x, f, measures, **extra)
    return archive.data("solution")


difference = np.max(np.abs(solutions(AdamOpt) - solutions("adam")))
print(difference)  # 0.0

"""The Adam of quimb's TNOptimizer."""

import functools

import numpy as np
import quimb.tensor as qtn
from quimb.tensor.optimize import ADAM

import numadam as na


class Adam(ADAM):
    def __call__(
        self,
        fun,
        x0,
        jac,
        args=(),
        learning_rate=0.001,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        maxiter=1000,
        callback=None,
        bounds=None,
        **kwargs,
    ):
        x = x0.copy()
        m, v = self.get_m(x), self.get_v(x)
        step = functools.partial(
            na.adam_update,
            lr=learning_rate,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            like="numpy",
        )
        for _ in range(maxiter):
            self._i += 1
            g = jac(x)
            if callback and callback(x):
                break
            step(x, g, m, v, self._i)
            if bounds is not None:
                np.clip(x, bounds[:, 0], bounds[:, 1], out=x)
        self._m, self._v = m, v
        return self.OptimizeResult(
            x=x, fun=fun(x), jac=g, nit=self._i, nfev=self._i, success=True
        )


def energy(psi):
    bra = psi.H
    bonds = [
        psi.gate(np.diag([0.25, -0.25, -0.25, 0.25]), (i, i + 1))
        for i in range(5)
    ]
    return sum(
        (bra & bond).contract(all, optimize="greedy") for bond in bonds
    )


def state(optimizer):
    psi = qtn.MPS_rand_state(6, 4, dtype="float64", seed=1)
    tn = qtn.TNOptimizer(
        psi,
        energy,
        autodiff_backend="autograd",
        optimizer=optimizer,
        bounds=(-1, 1),
        progbar=False,
    )
    tn.optimize(30, learning_rate=0.02)
    tn.optimize(30, learning_rate=0.01)
    return tn.vectorizer.vector


difference = np.max(np.abs(state(Adam()) - state("adam")))
print(difference)  # of rounding

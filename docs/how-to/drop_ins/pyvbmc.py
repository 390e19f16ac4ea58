"""minimize_adam of PyVBMC."""

import numpy as np
from pyvbmc.vbmc.minimize_adam import minimize_adam as their_minimize_adam

import numadam as na


def minimize_adam(
    f,
    x0,
    lb=-np.inf,
    ub=np.inf,
    tol_fun=0.001,
    max_iter=10000,
    master_min=0.001,
    master_max=0.1,
    master_decay=200,
    use_early_stopping=True,
):
    def settled(y, x):
        (slope, _), covariance = np.polyfit(
            np.linspace(-9.5, 9.5, 20), y, 1, cov=True
        )
        moved = x[:, 20:].mean(axis=1) - x[:, :20].mean(axis=1)
        distance = np.sqrt(np.sum(moved**2 / 20))
        error, wide = np.sqrt(
            covariance[0, 0] + np.array([tol_fun, 100 * tol_fun]) ** 2
        )
        return (distance < 0.001 and abs(slope) < wide) or (
            distance < 0.1 and abs(slope) < error
        )

    x, m, v = np.copy(x0), np.zeros_like(x0), np.zeros_like(x0)
    xs, ys = np.zeros((x.size, max_iter)), np.zeros(max_iter)
    for i in range(1, max_iter + 1):
        ys[i - 1], gradient = f(x)
        share = np.exp(-i / master_decay)
        lr = master_min + (master_max - master_min) * share
        na.adam_update(
            x, gradient, m, v, i, lr=lr, eps=2**-26, like="numpy"
        )
        xs[:, i - 1] = np.minimum(np.maximum(x, lb, out=x), ub, out=x)
        tested = use_early_stopping and i >= 40 and i % 20 == 0
        if tested and settled(ys[i - 20 : i], xs[:, i - 40 : i]):
            break
    last = slice(max(0, i - 20), i)
    return xs[:, last].mean(axis=1), ys[last].mean(), xs[:, :i], ys[:i], i


def iterates(minimize):
    rng, scales = np.random.default_rng(0), np.geomspace(1, 30, 12)

    def noisy(x):
        gradient = scales * (x - 1)
        noise = 0.1 * rng.standard_normal(12)
        return gradient @ (x - 1) / 2, gradient + noise

    return minimize(noisy, np.zeros(12))[2]


theirs = iterates(their_minimize_adam)
difference = np.max(np.abs(iterates(minimize_adam) - theirs))
print(difference)  # 0.0

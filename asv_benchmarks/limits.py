"""Calls of f and gradient until the way down is done but for a millionth: Adam and L-BFGS-B.

python asv_benchmarks/limits.py: the table of docs/explanation/limits.md, a minute. Needs
scikit-learn.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
from sklearn.datasets import load_breast_cancer

import numadam as na

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
MOST = 20_000


def quadratic(ratio, n=50):
    """A bowl whose curvatures run from 1 to `ratio`, turned at random; its minimum is 0."""
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix, at = q * np.geomspace(1, ratio, n) @ q.T, rng.standard_normal(n)

    def fun(x):
        gradient = matrix @ (x - at)
        return 0.5 * (x - at) @ gradient, gradient

    return fun, np.zeros(n)


def rosenbrock(n):
    """Rosenbrock's valley in n dimensions."""

    def fun(x):
        return scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)

    return fun, np.tile([-1.2, 1.0], n // 2)


def exponentials():
    """A sum of two decays, without noise."""
    t = np.linspace(0, 3, 60)
    y = 2 * np.exp(-t) + 0.5 * np.exp(-3 * t)

    def fun(p):
        fast, slow = np.exp(-p[1] * t), np.exp(-p[3] * t)
        r = p[0] * fast + p[2] * slow - y
        return r @ r, 2 * np.array(
            [r @ fast, -p[0] * r @ (t * fast), r @ slow, -p[2] * r @ (t * slow)]
        )

    return fun, np.array([1.0, 0.5, 1.0, 2.0])


def logistic(batch=None):
    """Logistic regression on breast_cancer; each call sees `batch` random rows, if given."""
    data, rng = load_breast_cancer(), np.random.default_rng(0)
    x = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    sign = 2.0 * data.target - 1

    def fun(w):
        rows = slice(None) if batch is None else rng.integers(len(x), size=batch)
        margin = sign[rows] * (x[rows] @ w)
        pull = sign[rows] / (1 + np.exp(margin))
        f = np.logaddexp(0, -margin).mean() + 5e-4 * w @ w
        return f, 1e-3 * w - pull @ x[rows] / len(margin)

    return fun, np.zeros(x.shape[1])


def lbfgs(fun, x0):
    """SciPy's L-BFGS-B with no test of f."""
    options = {"maxiter": MOST, "maxfun": MOST, "ftol": 0, "gtol": 1e-12}
    return scipy.optimize.minimize(fun, x0, jac=True, method="L-BFGS-B", options=options)


def calls(run, fun, x0, target):
    """Calls until f is at most `target`, None where it never was."""
    seen = []

    def counted(x):
        f, gradient = fun(x)
        seen.append(f)
        return f, gradient

    run(counted, x0)
    below = np.flatnonzero(np.array(seen) <= target)
    return int(below[0]) + 1 if len(below) else None


def adam(lr, target):
    """A run of Adam that ends at `target`."""

    def stop(intermediate_result):
        if intermediate_result.fun <= target:
            raise StopIteration

    return lambda fun, x0: na.minimize(
        fun, x0, jac=True, lr=lr, gtol=0, maxiter=MOST, callback=stop
    )


def noisy():
    """Logistic regression by batches of 32: what is left of the way down after 3000 calls."""
    whole, x0 = logistic()
    first, lowest = whole(x0)[0], lbfgs(whole, x0).fun
    rate = na.schedules.Cosine(0.1, steps=3000)
    ends = {
        "Adam": na.minimize(
            logistic(32)[0], x0, jac=True, lr=rate, gtol=0, maxiter=3000, track_best=False
        ).x,
        "L-BFGS-B": lbfgs(logistic(32)[0], x0).x,
    }
    return {name: (whole(x)[0] - lowest) / (first - lowest) for name, x in ends.items()}


def main():
    """Print both tables."""
    problems = {
        "Rosenbrock, n = 2": rosenbrock(2),
        "Rosenbrock, n = 50": rosenbrock(50),
        "quadratic, n = 50, curvatures 1 to 100": quadratic(100),
        "quadratic, n = 50, curvatures 1 to 10,000": quadratic(1e4),
        "two exponentials, 4 unknowns": exponentials(),
        "logistic regression, 30 unknowns": logistic(),
    }
    print("| problem | L-BFGS-B | Adam, best lr | Adam, lr=0.01 |\n|---|---|---|---|")
    for name, (fun, x0) in problems.items():
        lowest = lbfgs(fun, x0).fun
        target = lowest + 1e-6 * (fun(x0)[0] - lowest)
        ours = {lr: calls(adam(lr, target), fun, x0, target) for lr in RATES}
        best = min((lr for lr in RATES if ours[lr]), key=lambda lr: ours[lr])
        theirs = calls(lbfgs, fun, x0, target)
        print(f"| {name} | {theirs} | {ours[best]} (lr={best:g}) | {ours[0.01]} |", flush=True)
    print("\nLeft of the way down after 3000 calls with batches of 32:", noisy())


if __name__ == "__main__":
    main()

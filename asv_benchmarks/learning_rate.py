"""Run ``lr="auto"`` on the test problems in other units, with other rules, and with noise.

    pip install -e ".[problems]"
    python asv_benchmarks/learning_rate.py

The problems are those of `problems.py`, solved where at most tau of ``f0 - f_opt`` is left. In
units of s `minimize` gets ``f(x / s)`` and starts at ``s x0``. With noise each evaluation takes a
random half of the residuals, for f and gradient, and what counts is the whole f at the last
iterate.
"""

import argparse
import multiprocessing
import time
from typing import NamedTuple

import numpy as np
from problems import COLLECTIONS, load, sum_of_squares

import numadam as na

TAUS = (1e-1, 1e-3, 1e-5, 1e-7)
#: (rule, unit of x, part of the residuals in an evaluation, rates)
CASES = {
    "rates": [("adam", 1.0, 1.0, ("auto", 0.01, 0.1))],
    "units": [("adam", unit, 1.0, ("auto", 0.01)) for unit in (1e-8, 1e8)],
    "rules": [(rule, 1.0, 1.0, ("auto", 0.01)) for rule in ("sgd", "rmsprop", "lion", "adagrad")],
    "noise": [("adam", 1.0, 0.5, ("auto", 0.01, 0.1))],
}


class Job(NamedTuple):
    """One run."""

    collection: str
    name: str
    rule: str
    unit: float
    part: float
    lr: object
    maxiter: int


def objective(residuals, job, rng):
    """F and its forward differences, with one random choice of residuals at each call."""
    relative = np.finfo(float).eps ** 0.5

    def both(x):
        x = x / job.unit
        r = np.asarray(residuals(x), float)
        chosen = slice(None)
        if job.part < 1.0:
            chosen = rng.permutation(r.size)[: max(1, round(job.part * r.size))]
        scale = r.size / r[chosen].size
        f, g = scale * float(np.sum(r[chosen] ** 2)), np.empty(x.size)
        for k in range(x.size):
            kept = x[k]
            x[k] += relative * np.copysign(max(1.0, abs(kept)), kept)
            moved = scale * float(np.sum(np.asarray(residuals(x), float)[chosen] ** 2))
            g[k] = (moved - f) / (x[k] - kept) / job.unit
            x[k] = kept
        return f, g

    return both


def run(job):
    """The share of the way down that is left, and the rate."""
    residuals, x0, f_opt = load(job.collection)[job.name]
    fun = sum_of_squares(residuals)
    with np.errstate(all="ignore"):
        f0 = fun(x0)
        solved = f_opt + TAUS[-1] * (f0 - f_opt)

        def reached(intermediate_result):
            if job.part == 1.0 and intermediate_result.fun <= solved:
                raise StopIteration

        found = na.minimize(
            objective(residuals, job, np.random.default_rng(0)),
            job.unit * x0,
            jac=True,
            lr=job.lr,
            rule=job.rule,
            gtol=0,
            maxiter=job.maxiter,
            track_best=job.part == 1.0,
            callback=reached,
        )
        f = fun(found.x / job.unit)
    return (f - f_opt) / (f0 - f_opt), found.get("lr", job.lr)


def read_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--collection", default=COLLECTIONS[0], choices=COLLECTIONS)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--maxiter", type=int, default=1000)
    parser.add_argument("--without", action="append", default=[], help="a problem to leave out")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser.parse_args()


def main():
    """Print a line for each case and rate: how many problems are solved."""
    asked, start = read_arguments(), time.perf_counter()
    problems = load(asked.collection).items()
    known = [name for name, (_, _, f_opt) in problems if not np.isnan(f_opt)]
    names = [name for name in known if name not in asked.without]
    print(f"\n{asked.collection}, {len(names)} problems, {asked.maxiter} iterations:\n")
    print(f"| rule | unit | noise | lr | {' | '.join(f'{tau:g}' for tau in TAUS)} | rates |")
    print("|---" * (5 + len(TAUS)) + "|")
    cases = [case for kind in asked.case or CASES for case in CASES[kind]]
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for rule, unit, part, rates in cases:
            for lr in rates:
                settings = (rule, unit, part, lr, asked.maxiter)
                jobs = [Job(asked.collection, name, *settings) for name in names]
                left, chosen = zip(*pool.imap_unordered(run, jobs), strict=True)
                counts = " | ".join(str(sum(share <= tau for share in left)) for tau in TAUS)
                noise = "half" if part < 1 else "none"
                taken = f"{min(chosen):.0e} to {max(chosen):.0e}"
                print(f"| {rule} | {unit:g} | {noise} | {lr} | {counts} | {taken} |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()

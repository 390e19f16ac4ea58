"""Run ``lr="auto"`` on the test problems in other units, with other rules, and with noise.

    pip install -e ".[problems]"
    python tests/campaigns/learning_rate_auto.py

The problems, budgets and counts are those of `learning_rate_search.py`; here `minimize` itself
does the search. In units of s it gets ``f(x / s)`` and starts at ``s x0``. With noise each
evaluation takes a random half of the residuals, for f and gradient, and what counts is the whole f
at the last iterate.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import numadam as na

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaigns.learning_rate_search import DEFAULT, RATES, TAUS
from tests.campaigns.problems import COLLECTIONS

#: (rule, unit of x, part of the residuals in an evaluation, rates)
CASES = {
    "rates": [("adam", 1.0, 1.0, ("auto", RATES[DEFAULT], 0.1))],
    "units": [("adam", unit, 1.0, ("auto", RATES[DEFAULT])) for unit in (1e-8, 1e8)],
    "rules": [
        (rule, 1.0, 1.0, ("auto", RATES[DEFAULT])) for rule in ("sgd", "rmsprop", "lion", "adagrad")
    ],
    "noise": [("adam", 1.0, 0.5, ("auto", RATES[DEFAULT], 0.1))],
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


def residuals(collection, name):
    """(residuals of x, x0, optimum)."""
    from optimagic.benchmarking.get_benchmark_problems import get_benchmark_problems

    one = get_benchmark_problems(collection)[name]
    return one["noise_free_fun"], np.array(one["inputs"]["params"], float), one["solution"]["value"]


def objective(fun, job, rng):
    """F and its forward differences, with one random choice of residuals at each call."""
    relative = np.finfo(float).eps ** 0.5

    def both(x):
        x = x / job.unit
        r = np.asarray(fun(x), float)
        if job.part < 1.0:
            chosen = rng.permutation(r.size)[: max(1, round(job.part * r.size))]
        else:
            chosen = slice(None)
        scale = r.size / r[chosen].size
        f, g = scale * float(np.sum(r[chosen] ** 2)), np.empty(x.size)
        for k in range(x.size):
            kept = x[k]
            x[k] += relative * np.copysign(max(1.0, abs(kept)), kept)
            moved = scale * float(np.sum(np.asarray(fun(x), float)[chosen] ** 2))
            g[k] = (moved - f) / (x[k] - kept) / job.unit
            x[k] = kept
        return f, g

    return both


def run(job):
    """The share of the way down that is left, and the rate."""
    fun, x0, f_opt = residuals(job.collection, job.name)
    with np.errstate(all="ignore"):
        f0 = float(np.sum(np.square(fun(x0))))
        solved = f_opt + TAUS[-1] * (f0 - f_opt)

        def reached(intermediate_result):
            if job.part == 1.0 and intermediate_result.fun <= solved:
                raise StopIteration

        found = na.minimize(
            objective(fun, job, np.random.default_rng(0)),
            job.unit * x0,
            jac=True,
            lr=job.lr,
            rule=job.rule,
            gtol=0,
            maxiter=job.maxiter,
            track_best=job.part == 1.0,
            callback=reached,
        )
        f = float(np.sum(np.square(fun(found.x / job.unit))))
    return (f - f_opt) / (f0 - f_opt), found.get("lr", job.lr)


def read_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--collection", action="append", choices=COLLECTIONS)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--maxiter", type=int, default=1000)
    parser.add_argument("--without", action="append", default=[], help="a problem to leave out")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser.parse_args()


def line(pool, collection, names, case, lr, maxiter):
    """A line of the table: one rate, all problems."""
    rule, unit, part, _ = case
    jobs = [Job(collection, name, rule, unit, part, lr, maxiter) for name in names]
    left, chosen = zip(*pool.imap_unordered(run, jobs), strict=True)
    counts = (str(sum(one <= tau for one in left)) for tau in TAUS)
    noise = "half" if part < 1 else "none"
    return (
        f"| {rule} | {unit:g} | {noise} | {lr} | {' | '.join(counts)} | "
        f"{min(chosen):.0e} to {max(chosen):.0e} |"
    )


def main():
    """Run everything that is asked for."""
    asked, start = read_arguments(), time.perf_counter()
    from optimagic.benchmarking.get_benchmark_problems import get_benchmark_problems

    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for collection in asked.collection or COLLECTIONS[:1]:
            problems = get_benchmark_problems(collection).items()
            known = [name for name, one in problems if one["solution"]["value"] is not None]
            names = [name for name in known if name not in asked.without]
            print(f"\n{collection}, {len(names)} problems, {asked.maxiter} iterations:\n")
            taus = " | ".join(f"{tau:g}" for tau in TAUS)
            print(f"| rule | unit | noise | lr | {taus} | rates |")
            print("|---" * (5 + len(TAUS)) + "|")
            for case in (case for name in asked.case or CASES for case in CASES[name]):
                for lr in case[-1]:
                    print(line(pool, collection, names, case, lr, asked.maxiter), flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()

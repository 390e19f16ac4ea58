"""Count the problems of optimagic's 114 that `numadam.minimize` solves, at fixed settings.

    pip install -e ".[problems]"
    python asv_benchmarks/problems.py

The problems are sums of squares: `more_wild` (54) and `cartis_roberts` (60). Gradients are forward
differences. A problem is solved where ``f0 - f >= (1 - tau) (f0 - f_opt)`` at the best point
(More and Wild, "Benchmarking Derivative-Free Optimization Algorithms", SIAM J. Optim. 2009). No
setting knows the problem. A run ends early where it is solved at the strictest tau.
"""

import argparse
import importlib.metadata
import math
import multiprocessing
import platform
import sys
import time
import traceback
from typing import NamedTuple

import numpy as np
from scipy import optimize

import numadam as na
from numadam.schedules import Cosine

COLLECTIONS = ("more_wild", "cartis_roberts")
TAUS = (1e-1, 1e-3, 1e-4, 1e-5, 1e-7)
#: (rule, lr of maxiter)
SETTINGS = {
    "adam-0.01": ("adam", lambda maxiter: 0.01),
    "adam-cosine-0.1": ("adam", lambda maxiter: Cosine(0.1, steps=maxiter)),
    "adam-cosine-1": ("adam", lambda maxiter: Cosine(1.0, steps=maxiter)),
    "nadam-cosine-0.1": ("nadam", lambda maxiter: Cosine(0.1, steps=maxiter)),
}
PEER = "SciPy L-BFGS-B"
PACKAGES = ("numadam", "optimagic", "numpy", "scipy", "numba")


class Job(NamedTuple):
    """One run."""

    collection: str
    name: str
    setting: str
    maxiter: int


class Outcome(NamedTuple):
    """Values of f, and the end of a run."""

    job: Job
    size: int
    f0: float
    f_opt: float
    f: float
    nit: int
    nfev: int
    status: int
    seconds: float
    error: str = ""

    @property
    def left(self):
        """The share of ``f0 - f_opt`` that is left; NaN where the optimum is not known."""
        return (self.f - self.f_opt) / (self.f0 - self.f_opt)

    def solved(self, tau):
        """Whether it is at most tau."""
        return bool(self.left <= tau)


def load(collection):
    """(residuals of x, x0, optimum) of each problem by name; the optimum is NaN if not known."""
    from optimagic.benchmarking.get_benchmark_problems import get_benchmark_problems

    problems = {}
    for name, problem in get_benchmark_problems(collection).items():
        f_opt = problem["solution"]["value"]
        x0 = np.array(problem["inputs"]["params"], np.float64)
        problems[name] = problem["noise_free_fun"], x0, math.nan if f_opt is None else f_opt
    return problems


def sum_of_squares(residuals):
    """The function that is minimised."""
    return lambda x: float(np.sum(np.square(residuals(x))))


def minimize(fun, x0, setting, maxiter, target):
    """The result of one setting; it ends where f is at most `target`."""

    def reached(intermediate_result):
        if intermediate_result.fun <= target:
            raise StopIteration

    if setting == PEER:
        options = {"maxiter": maxiter, "maxfun": math.inf, "ftol": 0.0, "gtol": 1e-6}
        found = optimize.minimize(fun, x0, method="L-BFGS-B", callback=reached, options=options)
        return found, found.fun
    rule, lr = SETTINGS[setting]
    found = na.minimize(
        fun, x0, gtol=1e-6, lr=lr(maxiter), rule=rule, maxiter=maxiter, callback=reached
    )
    return found, found.fun


def run(job):
    """One run, whatever happens in it."""
    residuals, x0, f_opt = load(job.collection)[job.name]
    fun = sum_of_squares(residuals)
    start = time.perf_counter()
    with np.errstate(all="ignore"):
        f0 = fun(x0)
        target = f_opt + TAUS[-1] * (f0 - f_opt)
        try:
            found, f = minimize(fun, x0, job.setting, job.maxiter, target)
        except Exception as error:
            shown = f"{type(error).__name__}: {error}"
            traceback.print_exc()
            return Outcome(job, x0.size, f0, f_opt, math.nan, 0, 0, -1, 0.0, shown)
    seconds = time.perf_counter() - start
    return Outcome(job, x0.size, f0, f_opt, f, found.nit, found.nfev, found.status, seconds)


def table(outcomes):
    """A line for each problem."""
    lines = ["| problem | n | f0 | f_opt | best f | left | iterations | evaluations | status |"]
    lines.append("|---" * 9 + "|")
    for one in outcomes:
        lines.append(
            f"| {one.job.name} | {one.size} | {one.f0:.4g} | {one.f_opt:.4g} | {one.f:.6g} | "
            f"{one.left:.1e} | {one.nit} | {one.nfev} | {one.error or one.status} |"
        )
    return "\n".join(lines)


def shares(outcomes):
    """Count of problems solved at each tau."""
    known = [one for one in outcomes if not math.isnan(one.f_opt)]
    counts = (f"{sum(one.solved(tau) for one in known)}" for tau in TAUS)
    return f"| {len(known)} | " + " | ".join(counts) + " |"


def unsolved(outcomes, tau):
    """Names of the problems that are left."""
    return ", ".join(
        f"{one.job.name} ({one.left:.0e})"
        for one in outcomes
        if not one.solved(tau) and not math.isnan(one.f_opt)
    )


def report(outcomes, details):
    """Print all tables."""
    kinds = list(dict.fromkeys((one.job.setting, one.job.collection) for one in outcomes))
    groups = {
        kind: [one for one in outcomes if (one.job.setting, one.job.collection) == kind]
        for kind in kinds
    }
    print("\n| setting | collection | problems | " + " | ".join(f"{tau:g}" for tau in TAUS) + " |")
    print("|---" * (3 + len(TAUS)) + "|")
    for (setting, collection), group in groups.items():
        print(f"| {setting} | {collection} {shares(group)}")
    for (setting, collection), group in groups.items():
        print(f"\n{setting}, {collection}: {sum(one.seconds for one in group):.0f} s")
        print(f"not solved at 1e-4: {unsolved(group, 1e-4) or 'none'}")
        claimed = [o.job.name for o in group if o.status == 0 and o.left > 1e-4]
        print(f"of these a stop test held in: {', '.join(claimed) or 'none'}")
        below = [o.job.name for o in group if o.left < -1e-6]
        print(f"below the optimum that is given: {', '.join(below) or 'none'}")
        if details:
            print("\n" + table(group))


def read_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = [*SETTINGS, PEER]
    parser.add_argument("--setting", action="append", choices=known, help="may be repeated")
    parser.add_argument("--collection", action="append", choices=COLLECTIONS)
    parser.add_argument("--maxiter", type=int, default=1000)
    parser.add_argument("--problem", action="append", help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--details", action="store_true", help="a line for each problem")
    return parser.parse_args()


def main():
    """Run everything that is asked for."""
    asked = read_arguments()
    jobs = [
        Job(collection, name, setting, asked.maxiter)
        for setting in asked.setting or [*SETTINGS, PEER]
        for collection in asked.collection or COLLECTIONS
        for name in load(collection)
        if not asked.problem or name in asked.problem
    ]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES[1:])
    print(f"numadam {na.__version__}, {versions}, Python {platform.python_version()}")
    print(f"maxiter {asked.maxiter}, forward differences, {len(jobs)} runs", flush=True)
    start = time.perf_counter()
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for outcome in pool.imap(run, jobs):
            outcomes.append(outcome)
            job = f"{outcome.job.setting} {outcome.job.name}: {outcome.left:.1e} left"
            print(f"{len(outcomes)}/{len(jobs)} {job}", file=sys.stderr, flush=True)
    report(outcomes, asked.details)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()

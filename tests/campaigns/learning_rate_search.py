"""Compare a search for the learning rate with the default and with the best fixed rates.

    pip install -e ".[problems]"
    python tests/campaigns/learning_rate_search.py

The problems are those of `problems.py`, with its test: solved where at most tau of ``f0 - f_opt``
is left. Each problem runs from x0 at each rate of a grid, once. All else follows from these runs,
since a run with a constant rate has the same iterates whoever asks for it: a range test is the
first k iterations at each rate, and the chosen run goes on with what is left of the budget. So all
columns have the same number of iterations, and each iteration costs n + 1 evaluations.
"""

import argparse
import importlib.metadata
import multiprocessing
import platform
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import numadam as na

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.campaigns.problems import COLLECTIONS, PACKAGES, load

RATES = np.geomspace(1e-3, 10, 9)  # two in a decade
DEFAULT = 2  # 0.01
TAUS = (1e-1, 1e-3, 1e-5, 1e-7)
#: Iterations of a range test at each rate.
TRIALS = (10, 30)


class Runs(NamedTuple):
    """One problem: the lowest f until each iteration, one row a rate."""

    name: str
    f0: float
    f_opt: float
    lowest: np.ndarray


def with_gradient(fun):
    """F and its forward differences, with SciPy's steps and a fifth of its time."""
    relative = np.finfo(float).eps ** 0.5

    def both(x):
        f, g = fun(x), np.empty(x.size)
        for k in range(x.size):
            kept = x[k]
            x[k] += relative * np.copysign(max(1.0, abs(kept)), kept)
            g[k] = (fun(x) - f) / (x[k] - kept)
            x[k] = kept
        return f, g

    return both


def run(job):
    """All rates of one problem."""
    collection, name, maxiter = job
    fun, x0, f_opt = load(collection)[name]
    rows = []
    with np.errstate(all="ignore"):
        f0 = fun(x0)
        solved = f_opt + TAUS[-1] * (f0 - f_opt)

        def reached(intermediate_result):
            if intermediate_result.fun <= solved:
                raise StopIteration

        for lr in RATES:
            options = {"jac": True, "gtol": 0, "maxiter": maxiter, "history": 1}
            found = na.minimize(with_gradient(fun), x0, lr=lr, callback=reached, **options)
            seen = found.history["fun"]
            lowest = np.minimum.accumulate(np.where(np.isfinite(seen), seen, np.inf))
            rows.append(np.pad(lowest, (0, maxiter + 1 - len(lowest)), mode="edge"))
    return Runs(name, f0, f_opt, np.array(rows))


def ends(one, budget):
    """The lowest f of each strategy after `budget` iterations."""
    last = one.lowest[:, budget]
    found = {f"fixed, {lr:.2g}": last[k] for k, lr in enumerate(RATES)}
    found["best of the grid for each problem"] = last.min()
    for k in TRIALS:
        spent = k * len(RATES)
        if spent > budget // 2:
            continue
        chosen = int(np.argmin(one.lowest[:, k]))
        seen = one.lowest[:, k].min()
        found[f"search, {k} iterations each"] = one.lowest[chosen, budget - spent + k]
        lower = max(chosen - 1, 0)  # starts again
        found[f"search, {k} iterations each, a third"] = min(
            seen, one.lowest[lower, budget - spent]
        )
    return found


def report(collection, runs, budget):
    """Print the table of one budget."""
    known = [one for one in runs if np.isfinite(one.f_opt)]
    print(f"\n{collection}, {len(known)} problems, {budget} iterations:\n")
    print("| strategy | " + " | ".join(f"{tau:g}" for tau in TAUS) + " |")
    print("|---" * (1 + len(TAUS)) + "|")
    each = [ends(one, budget) for one in known]
    for strategy in each[0]:
        left = [
            (found[strategy] - one.f_opt) / (one.f0 - one.f_opt)
            for found, one in zip(each, known, strict=True)
        ]
        counts = (str(sum(share <= tau for share in left)) for tau in TAUS)
        print(f"| {strategy} | {' | '.join(counts)} |")
    default = [found[f"fixed, {RATES[DEFAULT]:.2g}"] for found in each]
    for strategy in (name for name in each[0] if name.startswith("search")):
        change = [found[strategy] - f for found, f in zip(each, default, strict=True)]
        better, worse = sum(d < 0 for d in change), sum(d > 0 for d in change)
        print(f"{strategy}: lower f than 0.01 in {better}, higher in {worse}")


def read_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--collection", action="append", choices=COLLECTIONS)
    parser.add_argument("--budget", type=int, action="append", help="iterations; may be repeated")
    parser.add_argument("--problem", action="append", help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    return parser.parse_args()


def main():
    """Run everything that is asked for."""
    asked = read_arguments()
    budgets = asked.budget or [300, 1000]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES[1:])
    print(f"numadam {na.__version__}, {versions}, Python {platform.python_version()}", flush=True)
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for collection in asked.collection or COLLECTIONS:
            names = [n for n in load(collection) if not asked.problem or n in asked.problem]
            runs = []
            for one in pool.imap(run, [(collection, name, max(budgets)) for name in names]):
                runs.append(one)
                print(f"{len(runs)}/{len(names)} {one.name}", file=sys.stderr, flush=True)
            for budget in budgets:
                report(collection, runs, budget)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()

"""The table of docs/how-to/drop-ins.md: packages on numadam, difference of results, ratio of times.

    pip install -e ".[test,dropins]"
    python asv_benchmarks/dropins.py
    python asv_benchmarks/dropins.py ODL quimb

Each cell of time is that of the optimiser's part of a step alone: ours, and ours / theirs, both
timed in turns in this process, at 10 numbers and at 1,000,000. Two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from numadam._bench.measure import Side, rounds
from tests.pages import run_drop_in

#: Two sides that do the same steps, ours first.
Pair = tuple[Side, Side]
Names = dict[str, Any]
SMALL, LARGE, ROUNDS = 10, 1_000_000, 15


def gradient(n: int) -> Any:
    """The gradient of all steps."""
    return np.random.default_rng(0).standard_normal(n)


def steps_of(n: int) -> int:
    """Steps in one call of a function that runs a loop: as many as in a short run."""
    return 100 if n == SMALL else 5


def sklearn(names: Names, n: int) -> Pair:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    def side(optimizer: Any) -> Side:
        params, g = [np.zeros(n)], [gradient(n)]
        made = optimizer(params)
        return lambda: made.update_params(params, g)

    return side(names["AdamOptimizer"]), side(AdamOptimizer)


def pacmap(names: Names, n: int) -> Pair:
    def side(update: Any) -> Side:
        y, m, v = (np.zeros((n // 2, 2), np.float32) for _ in range(3))
        g = np.ones((n // 2 + 1, 2), np.float32)
        return lambda: update(y, g, m, v, 0.9, 0.999, 1.0, 7)

    # the module's own: the page puts it back
    return side(names["update_embedding_adam"]), side(names["pacmap"].pacmap.update_embedding_adam)


def pyribs(names: Names, n: int) -> Pair:
    from ribs.emitters.opt import AdamOpt

    def side(optimizer: Any) -> Side:
        made, g = optimizer(np.zeros(n)), gradient(n)
        return lambda: made.step(g)

    return side(names["AdamOpt"]), side(AdamOpt)


def quimb(names: Names, n: int) -> Pair:
    def side(optimizer: Any) -> Side:
        made, g, x = optimizer(), gradient(n), np.zeros(n)
        return lambda: made(lambda x: 0.0, x, lambda x: g, maxiter=steps_of(n))

    return side(names["Adam"]), side(names["ADAM"])


def odl(names: Names, n: int) -> Pair:
    space, g = names["odl"].rn(n), gradient(n)

    class Constant(names["odl"].Operator):
        """The same gradient at every x: one copy."""

        def _call(self, x: Any, out: Any) -> None:
            out.data[...] = g

    f, x = SimpleNamespace(gradient=Constant(space, space)), space.zero()

    def side(solve: Any) -> Side:
        return lambda: solve(f, x, maxiter=steps_of(n))

    return side(names["adam"]), side(names["odl"].solvers.adam)


def pyvbmc(names: Names, n: int) -> Pair:
    g = gradient(n)
    options = {"max_iter": steps_of(n), "use_early_stopping": False}

    def side(minimize: Any) -> Side:
        return lambda: minimize(lambda x: (0.0, g), np.zeros(n), **options)

    return side(names["minimize_adam"]), side(names["their_minimize_adam"])


def pennylane(names: Names, n: int) -> Pair:
    numpy = names["qml"].numpy
    args, g = (numpy.array(np.zeros(n), requires_grad=True),), (numpy.array(gradient(n)),)

    def side(optimizer: Any) -> Side:
        made = optimizer()
        return lambda: made.apply_grad(g, args)

    return side(names["AdamOptimizer"]), side(names["qml"].AdamOptimizer)


#: By section: its distribution, what is replaced, its sides, and steps in a call of them.
CASES: dict[str, tuple[str, str, Callable[[Names, int], Pair], Callable[[int], int]]] = {
    "scikit-learn": ("scikit-learn", "`AdamOptimizer` of `MLPClassifier`", sklearn, lambda n: 1),
    "PaCMAP": ("pacmap", "`update_embedding_adam`, compiled", pacmap, lambda n: 1),
    "pyribs": ("ribs", "`AdamOpt` of the emitters", pyribs, lambda n: 1),
    "quimb": ("quimb", "`ADAM` of `TNOptimizer`", quimb, steps_of),
    "ODL": ("odl", "`odl.solvers.adam`", odl, steps_of),
    "PyVBMC": ("pyvbmc", "`minimize_adam`", pyvbmc, steps_of),
    "PennyLane": ("pennylane", "`AdamOptimizer`", pennylane, lambda n: 1),
}


def cell(pair: Pair, steps: int) -> str:
    """Our time of a step, and its ratio to theirs: the least of all rounds."""
    ours, theirs = (min(times) / steps for times in rounds(pair, ROUNDS))
    time = f"{ours * 1e6:.1f} us" if ours < 1e-4 else f"{ours * 1e3:.1f} ms"
    return f"{time} ({ours / theirs:.2f})"


def row(title: str) -> str:
    """The line of one package."""
    distribution, what, sides, steps = CASES[title]
    with contextlib.redirect_stdout(io.StringIO()):  # the examples print
        names = run_drop_in(title)
    cells = [cell(sides(names, n), steps(n)) for n in (SMALL, LARGE)]
    link, difference = f"[{title}](#{title.lower()})", f"{names['difference']:.2g}"
    return f"| {' | '.join([link, version(distribution), what, difference, *cells])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="*", choices=[*CASES, []], help="these alone")
    print("| package | version | what is replaced | difference | 10 numbers | 1,000,000 |")
    print("|---|---|---|---|---|---|")
    for title in parser.parse_args().package or CASES:
        print(row(title), flush=True)


if __name__ == "__main__":
    main()

"""Forges files of `minimize` and `minimize_many`, with checksums that fit, and goes on from them.

``python -m tests.campaigns.forged_runs`` puts every bad value in the place of every number, text
and object of a file, and arrays of other shapes, dtypes and contents in that of every array; it
leaves out and adds names. A forged file has to be refused with a `CheckpointError`, or the run has
to be right: no more iterations than `maxiter`, results of their shapes and dtypes, an f that is a
number; and the bits of the run that nobody forged where names, shapes or dtypes alone are forged.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import math
import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import numadam as na
from numadam._checkpoint.container import Container, read, write
from tests.minimize.interrupted import Cut, compiled_run, cut_at
from tests.minimize.objectives import START, python_rosen, rosen

#: Iterations in a file, and those that are asked for when it has been forged.
DONE, MAXITER = 12, 20
STARTS = np.random.default_rng(0).uniform(-2, 2, (30, 2))

# --- runs ----------------------------------------------------------------------------------------


def in_python(call: int | None = None, **options: Any) -> Any:
    """A nesting, a schedule with a state, all stop tests."""

    def fun(x: Any) -> Any:
        f, g = python_rosen(x["a"])
        return f, {"a": g, "b": np.zeros_like(x["b"])}

    lr = na.schedules.ReduceOnPlateau(0.02, patience=2)
    start = {"a": START, "b": np.ones((2, 2))}
    options = {"xtol": 1e-300, "bounds": (-3.0, 3.0), "amsgrad": True, **options}
    return na.minimize(cut_at(fun, call), start, jac=True, lr=lr, **options)


def apart(call: int | None = None, **options: Any) -> Any:
    """A gradient of its own: f is evaluated at the end alone."""
    jac = cut_at(lambda x: python_rosen(x)[1], call)
    return na.minimize(lambda x: python_rosen(x)[0], START, jac=jac, lr=0.02, **options)


def compiled(call: int | None = None, **options: Any) -> Any:
    """A compiled objective."""
    return compiled_run(call, lr=na.schedules.Cosine(0.1, 50), xtol=1e-300, ema=0.9, **options)


def rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rosenbrock's valley for all rows, in Python."""
    g = np.zeros_like(x)
    return np.array([rosen(one, of) for one, of in zip(x, g, strict=True)]), g


def many_in_python(call: int | None = None, **options: Any) -> Any:
    """Problems of one objective in Python, some of which stop at once."""
    return na.minimize_many(rows, STARTS[:5], jac=True, lr=0.02, gtol=20.0, **options)


def in_lanes(call: int | None = None, **options: Any) -> Any:
    """Compiled problems, some of which stop at once."""
    return na.minimize_many(rosen, STARTS, lr=0.02, gtol=20.0, **options)


class Loop(NamedTuple):
    """A run, and the call of the objective at which its file is written; None: at `DONE`."""

    run: Callable[..., Any]
    call: int | None = None


LOOPS = {
    "in Python": Loop(in_python),
    "in Python, raised": Loop(in_python, DONE),
    "apart": Loop(apart),
    "compiled": Loop(compiled),
    "compiled, raised": Loop(compiled, DONE),
    "many in Python": Loop(many_in_python),
    "in lanes": Loop(in_lanes),
}

# --- forgeries -----------------------------------------------------------------------------------

BAD: list[Any] = [
    *(None, True, False, -5, -1, 0, 1, 2, 8, 9, 99, 2**31, 2**63 - 1, -(2**63), 2**64, 10**400),
    *(math.nan, math.inf, -math.inf, 0.5, -0.5, 1e308, 1e-308),
    *("", "a", "1", [], [1], [[]], {}, {"a": 1}, {"schedule": 0}, {"schedule": -9}),
    *({"array": "x"}, {"array": "a"}, {"tuple": 3}, {"bounds": [1]}, {"dict": [[1]]}),
]
FILLINGS = [math.nan, math.inf, -math.inf, 0, 1, -1, 99, 2**62, -(2**62)]
DTYPES = ["float32", "float64", "complex128", "int64", "int32", "bool", "uint8"]


class Forgery(NamedTuple):
    """A forged content; `alike`: only a run with the bits of the true one is right."""

    what: str
    content: Container
    alike: bool


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values in JSON."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value[key], (*path, key))


def forgeries(true: Container) -> Iterator[Forgery]:
    """All forgeries of a file."""
    for path in _places(true.meta):
        if not path:
            continue

        def forged(change: Callable[[Any, Any], None], path: Any = path) -> Container:
            meta = copy.deepcopy(true.meta)
            inside: Any = meta
            for key in path[:-1]:
                inside = inside[key]
            change(inside, path[-1])
            return true._replace(meta=meta)

        where = "/".join(map(str, path))
        yield Forgery(f"{where} left out", forged(lambda inside, key: inside.pop(key)), True)
        for value in BAD:
            change = forged(lambda inside, key, value=value: inside.__setitem__(key, value))
            yield Forgery(f"{where}={value!r:.40}", change, False)
    for name in ("run", "rule", "at"):
        meta = {**true.meta, name: {**true.meta[name], "more": 1}}
        yield Forgery(f"{name}/more=1", true._replace(meta=meta), True)
    yield from _forged_arrays(true)


def _forged_arrays(true: Container) -> Iterator[Forgery]:
    for name, array in true.arrays.items():

        def forged(what: str, other: Any, alike: bool, name: str = name) -> Forgery:
            arrays = {**true.arrays, name: np.asarray(other)}
            return Forgery(f"{name} {what}", true._replace(arrays=arrays), alike)

        others = {key: value for key, value in true.arrays.items() if key != name}
        yield Forgery(f"{name} left out", true._replace(arrays=others), True)
        yield Forgery(f"{name} renamed", true._replace(arrays={**others, "more": array}), True)
        for shape in ((), (0,), (1,), (array.size + 1,), (*array.shape, 1), (2, *array.shape)):
            if shape != array.shape:
                yield forged(f"of shape {shape}", np.resize(array, shape), True)
        for dtype in DTYPES:
            if dtype != array.dtype:
                with np.errstate(all="ignore"):
                    other = array.astype(dtype)
                yield forged(f"of {dtype}", other, True)
        for filling in FILLINGS:
            with np.errstate(all="ignore"):
                filled = np.full(array.shape, filling).astype(array.dtype)
            yield forged(f"full of {filling}", filled, False)
    more = {**true.arrays, "more": np.zeros(3)}
    yield Forgery("more=zeros", true._replace(arrays=more), True)


# --- outcomes ------------------------------------------------------------------------------------


def fault(result: Any, whole: Any, alike: bool) -> str:
    """What is wrong with the result of a forged file; "" where nothing is."""
    many = isinstance(whole, na.ManyResult)
    if int(np.max(result.nit)) > MAXITER or int(np.min(result.nit)) < 0:
        return f"nit={result.nit}"
    for name in ("x", "x_last", "fun", "fun_last", "grad_norm"):
        its, true = (_flat(one[name]) for one in (result, whole))
        if [(a.shape, a.dtype) for a in its] != [(a.shape, a.dtype) for a in true]:
            return f"{name}: {its}"
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(its, true, strict=True))
        if alike and not same:
            return f"{name}: other bits"
    if not many and math.isnan(result.fun):
        return "fun is NaN"
    return ""


def _flat(value: Any) -> list[np.ndarray]:
    values = value.values() if isinstance(value, dict) else [value]
    return [np.asarray(one) for one in values]


#: Seconds after which a run does not end; others take some milliseconds.
_SECONDS = 5.0


def _too_long(*_: object) -> None:
    raise TimeoutError("the run did not end")


def outcome(loop: Loop, forgery: Forgery, whole: Any, path: Path) -> str:
    """ "refused", "right", or what went wrong."""
    write(path, forgery.content)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = loop.run(maxiter=MAXITER, checkpoint=path)
    except na.CheckpointError:
        return "refused"
    except Exception as error:  # whatever comes is what this program looks for
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error!s:.100} ({frame.filename[-30:]}:{frame.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return fault(result, whole, forgery.alike) or "right"


def campaign(name: str, every: int = 1) -> tuple[collections.Counter[str], list[str]]:
    """Counts of outcomes of a loop, of every so many forgeries, and the ones that are wrong."""
    loop, counts, wrong = LOOPS[name], collections.Counter[str](), []
    signal.signal(signal.SIGALRM, _too_long)
    whole = loop.run(maxiter=MAXITER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.run"
        with contextlib.suppress(Cut):
            loop.run(loop.call, maxiter=MAXITER if loop.call else DONE, checkpoint=path)
        true = read(path, "minimize_many" if isinstance(whole, na.ManyResult) else "minimize")
        for forgery in list(forgeries(true))[::every]:
            found = outcome(loop, forgery, whole, path)
            counts[found if found in ("refused", "right") else "wrong"] += 1
            if found not in ("refused", "right"):
                wrong.append(f"{name}: {forgery.what}: {found}")
    return counts, wrong


def main() -> None:
    """Forge, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try every so many forgeries")
    given = parser.parse_args()
    os.fsync = lambda handle: None  # type: ignore[assignment]  # nobody cuts the power
    failures = 0
    for name in LOOPS:
        counts, wrong = campaign(name, given.every)
        print(f"{name}: {dict(counts)}", *wrong, sep="\n  ", flush=True)
        failures += len(wrong)
    raise SystemExit(failures > 0)


if __name__ == "__main__":
    main()

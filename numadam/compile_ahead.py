"""Compile loops ahead, into a folder that other processes read: ``python -m numadam compile``.

Each loop is compiled by a short run of what a user calls, on small arrays. So this file knows
nothing of how loops are put together, and compiles exactly what a later process asks for.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import logging
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

import numadam as na
from numadam._arrays.checks import DTYPES
from numadam._core.options import DEFAULTS
from numadam._cpu.kernel import code_address
from numadam._jit import cache, loops, reports
from numadam._minimize.arguments import rule_class
from numadam.info import llvm_cpu
from numadam.rules import CLASSES, classes
from numadam.schedules import Constant

#: Of a rule's keywords those that no option of the command sets: groups share the loop of the
#: options that they set.
_NOT_OFFERED = {"self", "params", "groups", "shared"}
#: Words for values that cannot be written on a command line.
_ARRAY, _SCHEDULE = "array", "schedule"
#: Elements of a small array.
_SMALL = 3
#: Problems and elements of one, vectorised across the problems and not; on one core, and on all.
_ON_ONE_CORE = (24, 3), (1, 20)
_ON_ALL_CORES = (2_000, 3), (24, 20)

Options = dict[str, Any]


def _value(text: str) -> Any:
    """A value from the command line: a number, a tuple, None, True, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _folder(text: str) -> Path:
    """A folder from the command line; an empty word is a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, got an empty word")
    return Path(text)


def keywords() -> list[str]:
    """Keywords of all rules that the command takes, sorted."""
    named = {name for kind in classes().values() for name in inspect.signature(kind).parameters}
    return sorted((named | {*DEFAULTS}) - _NOT_OFFERED)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to a parser."""
    rules, dtypes = [*CLASSES, "all"], [*DTYPES, "all"]
    for name, usual, known in (("rule", "adam", rules), ("dtype", "float64", dtypes)):
        text = f"one or more of {', '.join(known)} (default: {usual})"
        parser.add_argument(
            f"--{name}", nargs="+", metavar="NAME", default=[usual], choices=known, help=text
        )
    for name, text in {
        "out": "also steps with out=",
        "minimize": "also minimize, with a compiled fun and one in Python",
        "many": "also minimize_many, with a compiled fun and one in Python",
        "fits": "also least_squares_many",
        "serial": "only loops of one thread: for arrays below 15,000 elements",
    }.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument(
        "--norm",
        choices=["inf", "2"],
        default="inf",
        help="norm of their stop test on the gradient (default: inf)",
    )
    parser.add_argument(
        "--folder",
        type=_folder,
        help="write there, and set NUMBA_CACHE_DIR to it later (default: numadam's own cache)",
    )
    for name in keywords():
        spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        parser.add_argument(
            *spellings,
            dest=f"option_{name}",
            nargs="?",
            const=True,
            default=argparse.SUPPRESS,
            type=_value,
            help=argparse.SUPPRESS,  # some 30: the page of the rule describes each
        )


def _array_options(options: Options, x: np.ndarray) -> Options:
    """Options with arrays in the place of the word "array", for parameters x."""
    arrays = {"bounds": (np.zeros(x.shape), np.ones(x.shape)), "lr": np.full(x.shape, 0.01)}
    given = {name: array for name, array in arrays.items() if options.get(name) == _ARRAY}
    return {**options, **given}


def _scheduled(kind: Any, options: Options) -> Options:
    """Options with a schedule in the place of the word "schedule"."""
    arguments, scheduled = inspect.signature(kind).parameters, {}
    for name in [name for name, value in options.items() if value == _SCHEDULE]:
        if name not in arguments or not isinstance(arguments[name].default, float):
            raise ValueError(f"{name}: give a number; a schedule of it has the same code.")
        scheduled[name] = Constant(arguments[name].default)
    return {**options, **scheduled}


def _steps(kind: Any, options: Options, x: np.ndarray, out: bool) -> None:
    """Steps of an optimiser over x."""
    optimizer = kind(x, **_array_options(options, x))
    optimizer.step(np.ones_like(x))
    optimizer.step(np.ones((x.size, 2), x.dtype)[:, 0])  # strided
    if out:
        optimizer.step(np.ones_like(x), out=np.empty_like(x))


def _square(x: Any) -> tuple[float, Any]:
    return float(np.sum(np.abs(x) ** 2)), 2 * x


def _squares(x: Any) -> tuple[Any, Any]:
    return np.sum(np.abs(x) ** 2, axis=1), 2 * x


@numba.njit  # type: ignore[untyped-decorator]  # Numba has no types for it
def _compiled_square(x: Any, g: Any) -> float:
    f = 0.0
    for k in range(x.size):
        g[k] = 2 * x[k]
        f += abs(x[k]) ** 2
    return f


def _minimizations(kind: Any, options: Options, x: np.ndarray, norm: float) -> None:
    """Minimise from x."""
    given = {**_array_options(options, x), "rule": kind, "maxiter": 2, "norm": norm}
    na.minimize(_square, x, jac=True, **given)
    if x.size == _SMALL:
        na.minimize(_compiled_square, x, **given)  # one thread, whatever the size


def _many_minimizations(kind: Any, options: Options, dtype: Any, shapes: Any, norm: float) -> None:
    """Minimise many problems, with a compiled fun, and with one in Python where it may be."""
    run = {"rule": kind, "maxiter": 2, "norm": norm}
    if all(options.get(name) is None for name in ("ema", "clip_norm", "clip_array_norm")):
        x = np.full(shapes[0], 0.5, dtype)
        given = _array_options(options, x[0])
        na.minimize_many(_squares, x, jac=True, **run, **given)
    for shape in shapes:
        given = _array_options(options, np.ones(shape[1]))
        if options.get("lr") == _ARRAY:
            given["lr"] = np.full(shape[0], 0.01)
        x = np.full(shape, 0.5, dtype)
        na.minimize_many(_compiled_square, x, **run, **given)


@numba.njit  # type: ignore[untyped-decorator]  # Numba has no types for it
def _residuals(x: Any, r: Any) -> None:
    for k in range(r.size):
        r[k] = x[0] - k


def _fits(dtype: np.dtype[Any], problems: int) -> None:
    """Fit many problems, on one core or on all."""
    na.least_squares_many(_residuals, np.zeros((problems, 1), dtype), m=2)


def _runs(args: argparse.Namespace, options: Options) -> Iterator[Callable[[], None]]:
    """The runs that compile what was asked for."""
    rules = CLASSES if "all" in args.rule else args.rule
    dtypes = DTYPES if "all" in args.dtype else args.dtype
    sizes = [_SMALL] if args.serial else [_SMALL, loops.parallel_from()]
    shapes = _ON_ONE_CORE if args.serial else _ON_ONE_CORE + _ON_ALL_CORES
    norm = float(args.norm)
    if norm == 2 and not (args.minimize or args.many):
        raise ValueError(
            "norm: only --minimize and --many have stop tests; add one, or leave it out."
        )
    for rule in rules:
        kind = rule_class(rule)
        given = _scheduled(kind, options)
        for name in dtypes:
            dtype = np.dtype(name)
            for size in sizes:
                x = np.full(size, 0.5, dtype)
                yield functools.partial(_steps, kind, given, x, args.out)
                if args.minimize:
                    yield functools.partial(_minimizations, kind, given, x, norm)
            if args.many:
                yield functools.partial(_many_minimizations, kind, given, dtype, shapes, norm)
    for name in {"float64", "float32"} & {*dtypes} if args.fits else ():
        for problems, _ in shapes[::2]:
            yield functools.partial(_fits, np.dtype(name), problems)


class _Lines(logging.Handler):
    """Prints what is compiled, and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.compiled = self.loaded = self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take one message of the logger `numadam`."""
        text = record.getMessage()
        if record.name != reports.logger.name:
            return  # our own objective, of a run that needs one
        if record.levelno < logging.INFO:
            self.loaded += 1
        else:
            shown, kept, _ = text.partition(", kept in")
            self.compiled += 1
            self.lost += not kept
            print(shown, flush=True)


@contextmanager
def _printed() -> Iterator[_Lines]:
    """Print what is compiled inside."""
    lines, logger, patience = _Lines(), reports.logger, reports.PATIENCE
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    reports.PATIENCE = threading.TIMEOUT_MAX  # a terminal gets these lines
    try:
        yield lines
    finally:
        reports.PATIENCE = patience
        logger.setLevel(level)
        logger.removeHandler(lines)


def run(args: argparse.Namespace) -> int:
    """Compile what was asked for; 0 where all of it is in the folder."""
    chosen = nullcontext() if args.folder is None else cache.only_in(args.folder.absolute())
    given = {
        name.removeprefix("option_"): value
        for name, value in vars(args).items()
        if name.startswith("option_")
    }
    begin = time.perf_counter()
    with chosen, _printed() as lines:
        folder = cache.directory()
        if folder is None:
            advice = "" if args.folder else ". Name a --folder, or set NUMBA_CACHE_DIR"
            raise OSError(f"cannot write the loops: {'; '.join(cache.refused)}{advice}")
        for compile_some in list(_runs(args, given)):
            compile_some()
        code_address("overlap_search")  # no run has enough arrays to need it
    if lines.lost:  # the disk is full: a warning has said so
        raise OSError(f"{lines.lost} of {lines.compiled} loops could not be written to {folder}")
    sizes = [path.stat().st_size for path in folder.glob("*.loop")]
    print(
        f"{lines.compiled} compiled in {time.perf_counter() - begin:.0f} s, {lines.loaded} loaded: "
        f"{folder} holds {len(sizes)} loops, {sum(sizes) / 1e6:.1f} MB.\n"
        f"They are for {_needed()}."
    )
    if args.folder is not None:
        quoted = shlex.quote(str(args.folder.absolute()))
        print(f"Where the program runs, set NUMBA_CACHE_DIR={quoted}")
    return 0


def _needed() -> str:
    """Versions and processor that have to be the same where the loops are used."""
    versions = [f"numadam {na.__version__}", f"Python {sys.version.split()[0]}"]
    versions += [f"{module.__name__} {module.__version__}" for module in (numba, llvmlite, np)]
    return f"{', '.join(versions)}, processor {llvm_cpu()}, threading layer {loops.layer()}"

"""A record of what numadam does: bits of steps and runs, names, signatures, error texts.

Made before a part is replaced and again after it, and compared:

    python -m tests.campaigns.record before.json
    python -m tests.campaigns.record after.json
    python -m tests.campaigns.record --compare before.json after.json

An entry that only one side has, or that differs, is printed. Everything goes through public names.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np

import numadam as na
from numadam import nopython, rules, schedules

SHAPES = ((37, 5), (3,), (0, 2), (), (20_000,))
# options of every rule, a set of them at once
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1, "decoupled": True},
    {"weight_decay": 0.1, "decoupled": False},
    {"weight_decay": 0.1, "decoupled": True, "decay_times_lr": False},
    {"maximize": True},
    {"clip_value": 0.5},
    {"clip_norm": 1.0},
    {"clip_array_norm": 0.3},
    {"nonfinite": "skip"},
    {"bounds": (-0.4, 0.6)},
    {"ema": 0.9},
    {"ema": 0.9, "ema_warmup": True},
    {"ema": 0.9, "ema_debias": True},
    {"lr": schedules.Cosine(0.1, steps=20)},
    {"groups": {"0": {"lr": 0.01}, "1": {"frozen": True}}},
    {"clip_value": 0.8, "clip_norm": 2.0, "bounds": (-0.5, 0.5), "ema": 0.99, "weight_decay": 0.01},
)
PRESETS = ("torch", "optax", "keras", "tf1", "sklearn", "numpy")
ADAM: tuple[dict[str, Any], ...] = (
    {"amsgrad": True},
    {"eps_form": "hat"},
    {"eps_root": 1e-8},
    {"nesterov": True},
    {"bias_correction": False},
    *({"like": name} for name in PRESETS),
    *({"like": name, "amsgrad": True} for name in PRESETS),
)


def gradients(dtype: Any, seed: int) -> list[np.ndarray]:
    """Gradients with signs, zeros and scales from 1e-12 to 1e3."""
    rng = np.random.default_rng(seed)
    arrays = []
    for shape in SHAPES:
        g = rng.standard_normal(shape) * 10.0 ** rng.integers(-12, 4, shape)
        g = np.asarray(g * (rng.random(shape) > 0.1))
        if np.dtype(dtype).kind == "c":
            g = g + 1j * rng.standard_normal(shape)
        arrays.append(np.asarray(g).astype(dtype))
    return arrays


def digest(*arrays: Any) -> str:
    """A short hash of dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for array in arrays:
        value = np.ascontiguousarray(array)
        total.update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return total.hexdigest()[:16]


def steps(cls: Any, options: dict[str, Any], dtype: Any) -> str:
    """The hash of parameters, state and average after nine steps."""
    start = [np.array(g / 1e3, dtype) for g in gradients(dtype, 0)]
    opt = cls(start, **{"lr": 0.05, **options})
    for k in range(1, 10):
        opt.step(gradients(dtype, k))
    averages = opt.averaged if "ema" in options else []
    entries = [a for name in sorted(opt.state) for a in _leaves(opt.state[name])]
    return digest(*start, *entries, *averages)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in _leaves(value[key])]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [] if value is None else [value]


def bits_of_steps() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Ten rules by options by dtypes; own arrays; rows."""
    for cls in rules.classes().values():
        # each loop compiles for a second: all options at once for the other rules
        sets = OPTIONS + ADAM if cls is na.Adam else (OPTIONS[0], *OPTIONS[2:3], *OPTIONS[-2:])
        for options in sets:
            for dtype in (np.float32, np.float64, np.complex64):
                if np.dtype(dtype).kind == "c" and options not in ({}, {"clip_norm": 1.0}):
                    continue
                words = {k: v if np.isscalar(v) else repr(v) for k, v in options.items()}
                yield (
                    f"steps {cls.__name__} {np.dtype(dtype)} {words}",
                    lambda cls=cls, options=options, dtype=dtype: steps(cls, options, dtype),
                )
        yield f"rows {cls.__name__}", lambda cls=cls: rows(cls)
    yield "adam_update", own_arrays
    yield "nopython adam_update", compiled_update


def rows(cls: Any) -> str:
    """Steps of a few rows."""
    p = np.ones((50, 3), np.float32)
    opt = cls(p, lr=0.05, sparse="lazy")
    for k in range(5):
        g = np.full((4, 3), 0.5 + k, np.float32)
        opt.step(na.Rows(np.array([1, 7, 9 + k, 40]), g))
        opt.step(np.full((50, 3), 0.1, np.float32))
    return digest(p, *(a for name in sorted(opt.state) for a in _leaves(opt.state[name])))


def own_arrays() -> str:
    """`adam_update` on arrays of the caller."""
    p, m, v = np.ones(100), np.zeros(100), np.zeros(100)
    for t in range(1, 9):
        na.adam_update(p, np.sin(np.arange(100) + t), m, v, t, lr=0.01, clip_norm=1.0)
    return digest(p, m, v)


def compiled_update() -> str:
    """`nopython.adam_update` in compiled code of the caller."""

    @numba.njit
    def run(p: Any, m: Any, v: Any) -> None:
        for t in range(1, 9):
            nopython.adam_update(p, np.sin(p + t), m, v, t, 0.01)

    p, m, v = np.ones(100), np.zeros(100), np.zeros(100)
    run(p, m, v)
    return digest(p, m, v)


@numba.njit
def _rosenbrock(x: Any, g: Any) -> Any:
    f = 0.0
    g[:] = 0
    for i in range(x.size - 1):
        a, b = x[i + 1] - x[i] ** 2, 1 - x[i]
        f += 100 * a * a + b * b
        g[i] -= 400 * a * x[i] + 2 * b
        g[i + 1] += 200 * a
    return f


def _rosenbrock_python(x: Any) -> Any:
    g = np.empty_like(x)
    return _rosenbrock(x, g), g


@numba.njit
def _decay(x: Any, r: Any, J: Any, i: Any, t: Any, data: Any) -> None:
    for k in range(t.size):
        e = np.exp(-x[1] * t[k])
        r[k] = x[0] * e - data[i, k]
        J[k, 0] = e
        J[k, 1] = -t[k] * x[0] * e


def runs() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Runs of a fixed number of iterations, which no stop test ends, and fits."""
    keep = {"gtol": 0.0, "xtol": 0.0, "ftol": 0.0, "maxiter": 300}
    start = np.array([-1.2, 1.0, 0.5, 0.2])
    for name in rules.CLASSES:
        for more in ({}, {"bounds": (-1.5, 0.9)}, {"clip_norm": 1.0}):
            given = {**keep, "rule": name, "lr": 0.01, **more}
            yield (
                f"minimize compiled {name} {more}",
                lambda given=given: digest(na.minimize(_rosenbrock, start, **given).x),
            )
            yield (
                f"minimize python {name} {more}",
                lambda given=given: digest(
                    na.minimize(_rosenbrock_python, start, jac=True, **given).x
                ),
            )
            yield (
                f"minimize_many {name} {more}",
                lambda given=given: digest(
                    na.minimize_many(
                        _rosenbrock, start * np.linspace(0.5, 1.5, 70)[:, None], **given
                    ).x
                ),
            )
    t = np.linspace(0, 4, 20)
    truth = np.linspace(0.5, 2, 30)[:, None]
    data = truth * np.exp(-(1 + truth) * t)
    noisy = data + 0.01 * np.sin(37 * t)
    yield (
        "least_squares_many",
        lambda: digest(
            *(
                value
                for res in [
                    na.least_squares_many(_decay, np.ones((30, 2)), (t, noisy), m=20, jac=True)
                ]
                for value in (res.x, res.cost, res.stderr, res.nfev)
            )
        ),
    )


def names() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Public names with their signatures."""
    for module in (na, nopython, schedules):
        for name in sorted(set(module.__all__) - {"mpi", "__version__"}):
            value = getattr(module, name)
            if callable(value):
                yield (
                    f"signature {module.__name__}.{name}",
                    lambda value=value: _signature(value),
                )
    for name in sorted(n for n in dir(na.Adam) if not n.startswith("_")):
        yield f"attribute Adam.{name}", lambda: "is there"


def _signature(value: Any) -> str:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return "none"
    return ", ".join(str(p.replace(annotation=p.empty)) for p in parameters)


def errors() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Texts of refusals."""
    p, g = np.ones((3, 2)), np.ones((3, 2))
    read_only = np.ones(3)
    read_only.flags.writeable = False
    calls: dict[str, Callable[[], Any]] = {
        "shape": lambda: na.Adam(p).step(np.ones((2, 3))),
        "dtype": lambda: na.Adam(p).step(np.ones((3, 2), np.float32)),
        "integers": lambda: na.Adam(np.ones(3, int)),
        "read-only": lambda: na.Adam(read_only),
        "overlap": lambda: na.Adam([p, p[1:]]),
        "structure": lambda: na.Adam({"a": p}).step({"b": g}),
        "missing": lambda: na.Adam({"a": p, "b": p.copy()}).step({"a": g}),
        "not an array": lambda: na.Adam("x"),
        "masked": lambda: na.Adam(np.ma.ones(3)),
        "big-endian": lambda: na.Adam(np.ones(3, ">f8")),
        "big-endian gradient": lambda: na.Adam(p).step(g.astype(">f8")),
        "lr": lambda: na.Adam(p, lr=-1.0),
        "lr text": lambda: na.Adam(p, lr="fast"),
        "beta1": lambda: na.Adam(p, beta1=1.0),
        "unknown": lambda: na.Adam(p, momentum=0.9),
        "clip": lambda: na.Adam(p, clip_norm=0.0),
        "bounds order": lambda: na.Adam(p, bounds=(1.0, 0.0)),
        "bounds shape": lambda: na.Adam(p, bounds=(np.zeros(3), np.ones(3))),
        "bounds pairs": lambda: na.Adam(np.ones(3), bounds=[(0, 1), (0, "a"), (0, 1)]),
        "ema": lambda: na.Adam(p, ema=1.0),
        "nonfinite": lambda: na.Adam(p, nonfinite="stop"),
        "raise": lambda: na.Adam(p, nonfinite="raise").step(g * np.nan),
        "like": lambda: na.Adam(p, like="mine"),
        "sparse": lambda: na.Adam(p).step(na.Rows(np.array([0]), g[:1])),
        "rows": lambda: na.Adam(p, sparse="lazy").step(na.Rows(np.array([9]), g[:1])),
        "group": lambda: na.Adam([p], groups={"x": {"lr": 1.0}}),
        "rule": lambda: na.minimize(_rosenbrock, np.ones(2), rule="adamx"),
        "option": lambda: na.minimize(_rosenbrock, np.ones(2), rate=1),
        "x0": lambda: na.minimize(_rosenbrock, np.ones(2) * np.nan),
        "fun": lambda: na.minimize(3, np.ones(2)),
        "maxiter": lambda: na.minimize(_rosenbrock, np.ones(2), maxiter=-1),
        "many": lambda: na.minimize_many(_rosenbrock, np.ones(2)),
        "m": lambda: na.least_squares_many(_decay, np.ones((1, 2)), m=0),
        "load": lambda: na.load("no such file"),
        "update": lambda: na.adam_update(p, g, g, g, 1),
        "t": lambda: na.adam_update(p, g, p * 0, p * 0, 0),
        "no gradient": lambda: na.Adam(p).step(),
        "attribute": lambda: setattr(na.Adam(p), "lrr", 1),
        "name": lambda: na.Adams,
    }
    for name, call in calls.items():
        yield f"error {name}", lambda call=call: _text(call)


def _text(call: Callable[[], Any]) -> str:
    try:
        value = call()
    except Exception as error:  # what is raised is the entry
        return f"{type(error).__name__}: {error}"
    return f"no error: {type(value).__name__}"


def write(path: Path) -> None:
    """Fill a file with all entries."""
    entries = {}
    for group in (names, errors, bits_of_steps, runs):
        for name, call in group():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                entries[name] = _refused(call)
    path.write_text(json.dumps(entries, indent=1), encoding="utf-8")
    print(f"{len(entries)} entries")


def _refused(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # an option that a rule refuses is an entry too
        return f"{type(error).__name__}: {error}"


def compare(before: Path, after: Path) -> None:
    """Print what differs."""
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (before, after))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    for name in differing:
        print(f"{name}\n  - {old.get(name)}\n  + {new.get(name)}")
    print(f"{len(differing)} of {len({**old, **new})} entries differ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--compare", action="store_true", help="two files")
    given = parser.parse_args()
    if given.compare:
        compare(*given.files)
    else:
        write(*given.files)

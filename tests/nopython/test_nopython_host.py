"""Surroundings of the user's own compiled code: its cache, upgrades, debuggers, the docs page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numadam
from numadam import rules
from tests.processes import python

ROOT = Path(numadam.__file__).parent.parent
PAGE = (ROOT / "docs" / "how-to" / "own-solver.md").read_text(encoding="utf-8")
FIT, GPU, _, CACHED = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
USER = """
import sys
import numpy as np
from numba import njit
from numadam import nopython as nn
from numadam.nopython import adam_update, VERSION

@njit(cache=True)
def by_adam(p, m, v):
    for t in range(1, 6):
        adam_update(p, 2 * p, m, v, t, lr=0.1)

@njit(cache=True)
def by_adamw(p, m, v):
    for t in range(1, 6):
        nn.adamw_update(p, 2 * p, m, v, t, lr=0.1, weight_decay=0.5)

@njit
def fresh_adamw(p, m, v):
    for t in range(1, 6):
        nn.adamw_update(p, 2 * p, m, v, t, lr=0.1, weight_decay=0.5)

@njit
def fresh_adam(p, m, v):
    for t in range(1, 6):
        adam_update(p, 2 * p, m, v, t, lr=0.1)

@njit
def fresh_sgd(p, m, v):
    for t in range(1, 6):
        nn.sgd_update(p, 2 * p, lr=0.1)

def make(version):
    @njit(cache=True)
    def solve(p, m, v):
        version
        for t in range(1, 6):
            adam_update(p, 2 * p, m, v, t, lr=0.1)
    return solve
closed = make(VERSION)

if __name__ == "__main__":
    for name in sys.argv[1:]:
        p = np.array([1.0, -2.0, 3.0])
        solve = globals()[name]
        solve(p, np.zeros(3), np.zeros(3))
        hits = sum(getattr(solve, "stats").cache_hits.values()) if hasattr(solve, "stats") else 0
        print(name, hits, p.tobytes().hex())
"""


def run(folder, *names, root=ROOT, **env):
    """`USER` in a process of its own: for each function its hits in the cache, and its result."""
    module = folder / "user.py"
    if not module.exists():  # another time of writing would make its cache void
        module.write_text(USER)
    done = subprocess.run(
        [sys.executable, "user.py", *names],
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "error", **env},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: (int(hits), np.frombuffer(bytes.fromhex(p))) for name, hits, p in rows}


def expected():
    """After five steps, by the optimisers themselves."""
    found = {}
    for name, options in {"Adam": {}, "AdamW": {"weight_decay": 0.5}, "SGD": {}}.items():
        p = np.array([1.0, -2.0, 3.0])
        opt = getattr(numadam, name)(p, lr=0.1, **options)
        for _ in range(5):
            opt.step(2 * p)
        found[name.lower()] = p
    return found


def test_caches_hit_and_never_mix(tmp_path):
    """Functions from the disk and fresh ones of another rule meet, compiled in one order.

    Adam and AdamW take arguments of the same types: with names in common, the linker took the
    one for the other.
    """
    right = expected()
    orders = [
        (("by_adam",), ()),
        (("fresh_adamw", "by_adam"), ("by_adam",)),
        (("by_adam", "fresh_adamw", "fresh_sgd", "by_adamw"), ("by_adam",)),
        (("fresh_adam", "by_adamw", "by_adam"), ("by_adam", "by_adamw")),
    ]
    for names, loaded in orders:
        for name, (hits, p) in run(tmp_path, *names).items():
            assert hits == (name in loaded), (names, name)
            np.testing.assert_array_equal(p, right[name.split("_")[1]], err_msg=f"{names} {name}")


def test_an_upgrade_is_seen_through_the_version(tmp_path):
    package = tmp_path / "site"
    skipped = shutil.ignore_patterns("__pycache__", "*.loop")
    shutil.copytree(ROOT / "numadam", package / "numadam", ignore=skipped)
    before = run(tmp_path, "closed", "by_adam", root=package)
    again = run(tmp_path, "closed", root=package)
    assert (before["closed"][0], again["closed"][0]) == (0, 1)
    rule = package / "numadam" / "rules" / "_moments.py"
    text = rule.read_text()
    assert "n = h.s * m\n" in text
    rule.write_text(text.replace("n = h.s * m\n", "n = h.s * m + h.s * m\n"))
    after = run(tmp_path, "closed", "by_adam", "fresh_adam", root=package)
    assert after["closed"][0] == 0
    assert not np.array_equal(after["closed"][1], before["closed"][1])
    np.testing.assert_array_equal(after["fresh_adam"][1], after["closed"][1])
    # as the page says: without the version the old formula is loaded
    assert after["by_adam"][0] == 1
    np.testing.assert_array_equal(after["by_adam"][1], before["by_adam"][1])


def test_the_fit_of_the_page_finds_the_rates(capsys):
    names = {}
    exec(compile(FIT, "own-solver.md", "exec"), names)
    np.testing.assert_allclose(names["rates"], [1.5, 0.4], atol=1e-4)


def test_the_page_shows_the_cache_as_tested():
    assert "njit(cache=True)" in CACHED
    assert "make(VERSION)" in CACHED
    compile(CACHED, "own-solver.md", "exec")


# --- under NUMBA_DISABLE_JIT, as Python -----------------------------------------------------------


#: name: rule, options of its function, options of the optimiser, names of more arrays
CASES = {file: (file, {}, {}, ()) for file in rules.CLASSES} | {
    "adam amsgrad": ("adam", {}, {"amsgrad": True}, ("vmax",)),
    "adamw amsgrad": ("adamw", {}, {"amsgrad": True}, ("vmax",)),
    "nadam product": ("nadam", {"momentum_decay": 0.1}, {"momentum_decay": 0.1}, ("mu_product",)),
    "rmsprop all": (
        "rmsprop",
        {"momentum": 0.9},
        {"momentum": 0.9, "centered": True},
        ("mean", "m"),
    ),
    "sgd momentum": ("sgd", {"momentum": 0.9}, {"momentum": 0.9}, ("m",)),
}
CODE = """
import inspect, json, sys
from numadam import nopython

def run(file, options, more, start, grads, p):
    update = getattr(nopython, f"{file}_update")
    assert inspect.isfunction(update)  # nothing is compiled
    parameters = inspect.signature(update).parameters.values()
    needed = [one.name for one in parameters if one.default is one.empty]
    names = [name for name in needed if name not in ("p", "g", "t")] + more
    state = {name: np.array(start[name]) for name in names}
    for t, g in enumerate(grads, 1):
        update(p=p, g=g, **state, **({"t": t} if "t" in needed else {}), lr=0.01, **options)
    return p.ravel().tolist()

p, grads, starts = np.array(json.loads(P)), np.array(json.loads(GRADS)), json.loads(STARTS)
print(json.dumps({
    name: run(file, options, more, starts[name], grads, p.copy())
    for name, (file, options, _, more) in json.loads(CASES).items()
}))
"""


def start(file, options, p):
    """The state that an optimiser begins with; a product of momenta in an array of its own."""
    opt = rules.classes()[rules.CLASSES[file]](p.copy(), **options)
    arrays = {name: opt.state[name].tolist() for name in opt.state if name in opt.rule.state}
    return {**arrays, "mu_product": [1.0]}


@pytest.fixture(scope="module")
def python_run():
    """Parameters and gradients, and what each case makes of them, in one process."""
    rng = np.random.default_rng(0)
    p, grads = rng.standard_normal((2, 3)), rng.standard_normal((6, 2, 3))
    starts = {name: start(file, options, p) for name, (file, _, options, _) in CASES.items()}
    texts = {"P": p.tolist(), "GRADS": grads.tolist(), "CASES": CASES, "STARTS": starts}
    named = "".join(f"{name} = {json.dumps(json.dumps(one))}\n" for name, one in texts.items())
    return p, grads, json.loads(python(named + CODE, NUMBA_DISABLE_JIT="1"))


@pytest.mark.rule
@pytest.mark.parametrize("case", CASES)
def test_plain_python_has_the_bits_of_the_optimiser(case, python_run):
    p, grads, found = python_run
    file, _, options, _ = CASES[case]
    opt = getattr(numadam, rules.CLASSES[file])(p.copy(), lr=0.01, **options)
    for g in grads:
        opt.step(g)
    np.testing.assert_array_equal(found[case], opt.params.ravel())

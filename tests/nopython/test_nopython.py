"""The functions for the user's own compiled code: the optimisers' bits, any layout, errors.

Surroundings of the user's own compiled code: its cache, upgrades, debuggers, the docs page.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

import numadam
import numadam as na
from numadam import nopython, rules
from tests import extras
from tests.processes import python


def plain_case(file):
    """A rule in its default form."""
    parameters = inspect.signature(getattr(nopython, f"{file}_update")).parameters
    needed = [name for name, one in parameters.items() if one.default is one.empty]
    state = ", ".join(name for name in needed if name not in ("p", "g", "t"))
    rest = ["t"] * ("t" in needed) + ["lr=lr"]
    return rules.CLASSES[file], {"weight_decay": 0.0}, state, ", ".join(rest)


#: class, its options, state arrays, arguments after them
CASES = {file: plain_case(file) for file in rules.CLASSES} | {
    "adam by place": (
        "Adam",
        {"beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "eps_root": 1e-7},
        "m, v",
        "t, lr, 0.8, 0.95, 1e-6, 1e-7",
    ),
    "adam amsgrad": ("Adam", {"amsgrad": True}, "m, v", "t=t, lr=lr, vmax=vmax"),
    "adamw decay": (
        "AdamW",
        {"weight_decay": 0.3, "beta1": 0.7},
        "m, v",
        "t, lr, 0.3, beta1=0.7",
    ),
    "nadam product": (
        "NAdam",
        {"momentum_decay": 0.1, "weight_decay": 0.0},
        "m, v",
        "t, lr, momentum_decay=0.1, mu_product=mu_product",
    ),
    "rmsprop all": (
        "RMSprop",
        {"momentum": 0.9, "centered": True},
        "v",
        "lr, momentum=0.9, mean=mean, m=m",
    ),
    "rmsprop momentum": ("RMSprop", {"momentum": 0.9}, "v", "lr, momentum=0.9, m=m"),
    "sgd momentum": ("SGD", {"momentum": 0.9}, "", "m=m, lr=lr, momentum=0.9"),
}
STEPS = 50


def made(text):
    """The function `solve` of this source, compiled as a user's."""
    names = {**vars(nopython), "np": np}
    exec(text, names)
    return numba.njit(names["solve"])


def problem(dtype, shape=(23,)):
    rng = np.random.default_rng(7)
    scale = 10.0 ** rng.uniform(-3, 2, shape)
    return (
        rng.standard_normal(shape).astype(dtype),
        (scale * rng.standard_normal((STEPS, *shape))).astype(dtype),
    )


def arrays_of(opt, names):
    """These state arrays as the optimiser begins with them, and its own."""
    used = [name for name in ("m", "v", "u", "mean", "vmax") if re.search(rf"\b{name}\b", names)]
    state = {name: opt.state[name].copy() for name in used}
    if "mu_product" in names:
        state["mu_product"] = np.ones(1)
    return state, {name: opt.state[name] for name in used}


#: cases that are called as others of the table: compiled only in a sweep, while the bits of every
#: rule are compared without compilation in test_nopython.py
ALIKE = ("adamw", "radam", "adabelief", "adagrad", "adamax", "rmsprop", "rmsprop momentum", "sgd")


def check_solve(case, p, grads, write):
    """A loop of the user's over all steps, against the optimiser; `write` gives its lines."""
    name, options, state, rest = CASES[case]
    q, opt_p = p.copy(), p.copy()
    opt = getattr(na, name)(opt_p, lr=0.01, **options)
    own, held = arrays_of(opt, f"{state}, {rest}")
    lines = write(name.lower(), state, rest, own)
    made(f"def solve(p, grads, lr, {', '.join(own)}):\n{lines}")(q, grads, 0.01, *own.values())
    for g in grads:
        opt.step(g)
    np.testing.assert_array_equal(q, opt_p)
    assert not np.array_equal(q, p)
    for key, array in held.items():
        np.testing.assert_array_equal(own[key], array, err_msg=key)


ROWS = [extras.sweep(case, "float64") if case in ALIKE else (case, "float64") for case in CASES]
ROWS += [extras.sweep(case, "float32") for case in CASES]


@pytest.mark.rule
@pytest.mark.parametrize(("case", "dtype"), ROWS)
def test_an_update_has_the_bits_of_the_optimiser(case, dtype):
    def write(rule, state, rest, own):
        arguments = ", ".join(filter(None, ["p, grads[t - 1]", state, rest]))
        return f"    for t in range(1, len(grads) + 1):\n        {rule}_update({arguments})\n"

    check_solve(case, *problem(dtype), write)


ELEMENTS = ["adam", "adam amsgrad"]
ELEMENTS += [extras.sweep(case) for case in CASES if case not in (*ELEMENTS, "adam by place")]


@pytest.mark.rule
@pytest.mark.parametrize("case", ELEMENTS)
def test_an_element_has_the_bits_of_the_update(case):
    """In float32: numbers of the user's that are float64 do not widen it."""

    def write(rule, state, rest, own):
        # a user carries the product as a number
        product = ", mu_product=product" if own.pop("mu_product", None) is not None else ""
        optional = [key for key in ("vmax", "mean", "m") if f"{key}={key}" in rest]
        scalars = re.sub(r", (vmax|mean|m)=\1|^m=m, |, mu_product=mu_product", "", rest) + product
        kept = [key for key in state.split(", ") if key] + optional
        before = ", ".join(["p[i]", "np.float64(g[i])", *(f"{k}[i]" for k in kept if k in state)])
        after = ", ".join(["p[i]", *(f"{k}[i]" for k in kept)])
        extra = "".join(f", {k}={k}[i]" for k in optional)
        return (
            "    product = 1.0\n"
            "    for t in range(1, len(grads) + 1):\n"
            "        g = grads[t - 1]\n"
            f"        h = {rule}_scalars({scalars})\n"
            "        for i in range(p.size):\n"
            f"            {after} = {rule}_element({before}, h{extra})\n"
            f"        product = nadam_product(t, product, momentum_decay=0.1)\n"
        )

    check_solve(case, *problem("float32"), write)


def test_the_element_keeps_the_type_of_p():
    def kinds(p):
        p, m, v = nopython.adam_element(p, 2.0, 0.0, 0.0, nopython.adam_scalars(1))
        return p, m, v

    for dtype in (np.float32, np.float64):
        typed = numba.njit(kinds)
        typed(dtype(1))
        (signature,) = typed.nopython_signatures
        assert str(signature.return_type) == f"UniTuple({np.dtype(dtype).name} x 3)"


LAYOUTS = {
    "C": lambda a: a.copy("C"),
    "F": lambda a: a.copy("F"),
    "strided": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "transposed axes": lambda a: a.transpose(0, 2, 1).copy().transpose(0, 2, 1),
}


@pytest.mark.parametrize("of_grads", ["C", "same"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_bits(layout, of_grads):
    start, grads = problem("float64", (4, 3, 2))
    lay = LAYOUTS[layout]
    p, m, v = (lay(a) for a in (start, np.zeros_like(start), np.zeros_like(start)))
    q, mq, vq = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t, g in enumerate(grads[:5], 1):
        nopython.adam_update(p, lay(g) if of_grads == "same" else g, m, v, t)
        na.adam_update(q, g, mq, vq, t)
    np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(v, vq)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0)])
def test_shapes(shape):
    p, g = np.ones(shape), np.ones(shape)
    m, v = np.zeros(shape), np.zeros(shape)
    nopython.adam_update(p, g, m, v, 1, lr=0.25)
    np.testing.assert_allclose(p, np.full(shape, 0.75))


def test_wrong_arrays_are_named():
    p, m, v = np.ones(3), np.zeros(3), np.zeros(3)
    with pytest.raises(ValueError, match=r"^g: expected the shape of p"):
        nopython.adam_update(p, np.ones(2), m, v, 1)
    with pytest.raises(ValueError, match=r"^v: expected the shape of p"):
        nopython.adam_update(p, np.ones(3), m, np.zeros(4), 1)
    with pytest.raises(ValueError, match=r"^vmax: expected the shape of p"):
        nopython.adam_update(p, np.ones(3), m, v, 1, vmax=np.zeros(4))
    with pytest.raises(ValueError, match=r"^t: .* 1 at the first"):
        nopython.adam_update(p, np.ones(3), m, v, 0)
    np.testing.assert_array_equal(p, np.ones(3))
    with pytest.raises(TypingError, match=r"g: expected an array of float64 .* float32"):
        nopython.adam_update(p, np.ones(3, np.float32), m, v, 1)
    with pytest.raises(TypingError, match=r"p: expected an array, got float64.* _element"):
        nopython.adam_update(1.0, 1.0, 0.0, 0.0, 1)
    fixed = np.zeros(3)
    fixed.setflags(write=False)
    with pytest.raises(TypingError, match="m: is read-only"):
        nopython.adam_update(p, np.ones(3), fixed, v, 1)
    nopython.adam_update(p, fixed, m, v, 1)
    with pytest.raises(TypeError, match=r"adam_update: .*'learning_rate'. Write lr="):
        nopython.adam_update(p, np.ones(3), m, v, 1, learning_rate=0.1)
    with pytest.raises(TypingError, match="p: expected float32 or float64, got int64"):
        nopython.adam_element(1, 1.0, 0.0, 0.0, nopython.adam_scalars(1))


def test_buffers_and_momentum_belong_together():
    p, g = np.ones(2), np.ones(2)
    for call in (
        lambda: nopython.sgd_update(p, g, momentum=0.9),
        lambda: nopython.sgd_update(p, g, np.zeros(2)),
        lambda: nopython.rmsprop_update(p, g, np.zeros(2), momentum=0.9),
    ):
        with pytest.raises(ValueError, match="buffer"):
            call()
    with pytest.raises(ValueError, match=r"^mu_product: "):
        nopython.nadam_update(p, g, p.copy(), p.copy(), 1, mu_product=np.ones(2))


def test_every_rule_is_here_with_the_defaults_of_its_class():
    for file, name in rules.CLASSES.items():
        of_class = inspect.signature(getattr(na, name)).parameters
        for kind in ("scalars", "element", "update"):
            function = getattr(nopython, f"{file}_{kind}")
            assert "Parameters" in function.__doc__
            assert function.__qualname__ == f"{file}_{kind}"
            for key, one in inspect.signature(function).parameters.items():
                if isinstance(one.default, float) and key in of_class:
                    assert one.default == of_class[key].default, (function, key)
                elif key == "weight_decay":
                    assert one.default == 0.0


def test_threads_of_the_users_own():
    @numba.njit(parallel=True)
    def solve(p, m, v, steps):
        for i in numba.prange(len(p)):
            for t in range(1, steps + 1):
                nopython.adam_update(p[i], 2 * p[i], m[i], v[i], t, lr=0.1)

    p, _ = problem("float64", (6, 5))
    q, m, v = p.copy(), np.zeros_like(p), np.zeros_like(p)
    solve(q, m, v, 20)
    opt = na.Adam(p, lr=0.1)
    for _ in range(20):
        opt.step(2 * p)
    np.testing.assert_array_equal(q, p)


def test_python_may_leave_out_defaults():
    """Without that Numba types each of them anew at every call, which takes 100 times as long."""
    update, before = nopython.sgd_update, set(nopython.sgd_update.signatures)
    g = np.array([[[2.0, -1.0]]])  # of three axes: no other test has compiled for them
    for more, by_name in (
        ((), {"lr": 0.5}),
        ((None, 0.5), {}),
        ((), {"lr": 0.5, "momentum": 0.0}),
        ((None, 0.5, 0.0), {}),
    ):
        p = np.ones((1, 1, 2))
        update(p, g, *more, **by_name)
        assert p.tolist() == [[[0.0, 1.5]]]
    (signature,) = set(update.signatures) - before
    assert not any(isinstance(one, numba.types.Omitted) for one in signature)


@pytest.mark.parametrize(
    ("by_name", "says"),
    [({"rate": 0.5}, "'rate'. It has p, g, m, lr"), ({"p": 1.0}, "keyword arguments unexpected")],
)
def test_python_is_told_of_other_names(by_name, says):
    with pytest.raises(TypeError, match=says):
        nopython.sgd_update(np.ones(2), np.ones(2), **by_name)


# --- nopython host -------------------------------------------------------------------------------


ROOT = Path(numadam.__file__).parent.parent
PAGE = (ROOT / "docs" / "how-to" / "own-solver.md").read_text(encoding="utf-8")
FIT, GPU, CACHED = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
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
        (("by_adam", "fresh_adamw", "fresh_sgd", "by_adamw"), ("by_adam",)),
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
    rule = package / "numadam" / "rules" / "_moments.py"
    text = rule.read_text()
    assert "n = h.s * m\n" in text
    rule.write_text(text.replace("n = h.s * m\n", "n = h.s * m + h.s * m\n"))
    after = run(tmp_path, "closed", "by_adam", "fresh_adam", root=package)
    assert before["closed"][0] == after["closed"][0] == 0
    assert not np.array_equal(after["closed"][1], before["closed"][1])
    np.testing.assert_array_equal(after["fresh_adam"][1], after["closed"][1])
    # as the page says: without the version the old formula is loaded
    assert after["by_adam"][0] == 1
    np.testing.assert_array_equal(after["by_adam"][1], before["by_adam"][1])


def test_the_fit_of_the_page_finds_the_rates(capsys):
    names = {}
    exec(compile(FIT, "own-solver.md", "exec"), names)
    np.testing.assert_allclose(names["rates"], [1.5, 0.4], atol=1e-4)


# --- under NUMBA_DISABLE_JIT, as Python ----------------------------------------------------------


#: name: rule, options of its function, options of the optimiser, names of more arrays
HOST_CASES = {file: (file, {}, {}, ()) for file in rules.CLASSES} | {
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
    for name, (file, options, _, more) in json.loads(HOST_CASES).items()
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
    starts = {name: start(file, options, p) for name, (file, _, options, _) in HOST_CASES.items()}
    texts = {"P": p.tolist(), "GRADS": grads.tolist(), "HOST_CASES": HOST_CASES, "STARTS": starts}
    named = "".join(f"{name} = {json.dumps(json.dumps(one))}\n" for name, one in texts.items())
    return p, grads, json.loads(python(named + CODE, NUMBA_DISABLE_JIT="1"))


@pytest.mark.rule
@pytest.mark.parametrize("case", HOST_CASES)
def test_plain_python_has_the_bits_of_the_optimiser(case, python_run):
    p, grads, found = python_run
    file, _, options, _ = HOST_CASES[case]
    opt = getattr(numadam, rules.CLASSES[file])(p.copy(), lr=0.01, **options)
    for g in grads:
        opt.step(g)
    np.testing.assert_array_equal(found[case], opt.params.ravel())

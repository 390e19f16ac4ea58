"""Under NUMBA_DISABLE_JIT every function for compiled code runs as Python: for a debugger."""

from __future__ import annotations

import json

import numpy as np
import pytest

from numadam import rules
from tests.processes import python
from tests.references import steps

pytestmark = pytest.mark.rule

#: name: rule, options that its function takes, options of the reference, names of more arrays
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
def run():
    """Parameters and gradients, and what each case makes of them, in one process."""
    rng = np.random.default_rng(0)
    p, grads = rng.standard_normal((2, 3)), rng.standard_normal((6, 2, 3))
    starts = {name: start(file, options, p) for name, (file, _, options, _) in CASES.items()}
    texts = {"P": p.tolist(), "GRADS": grads.tolist(), "CASES": CASES, "STARTS": starts}
    named = "".join(f"{name} = {json.dumps(json.dumps(one))}\n" for name, one in texts.items())
    return p, grads, json.loads(python(named + CODE, NUMBA_DISABLE_JIT="1"))


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_the_paper(case, run):
    p, grads, found = run
    file, _, options, _ = CASES[case]
    if file == "adamw":  # the default of its decay
        options = {**options, "weight_decay": 0.01, "decoupled": True}
    expected, _ = steps(file)(p, grads, lr=0.01, **options)
    # RAdam's first rectified steps are a small difference of large numbers
    bound = 1e-9 if file == "radam" else 1e-12
    np.testing.assert_allclose(found[case], expected.ravel(), rtol=bound, atol=bound / 100)

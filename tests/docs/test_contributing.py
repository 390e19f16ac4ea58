"""The worked example of CONTRIBUTING.md: its rule runs, and steps as its reference does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from numadam._jit import cache
from tests import reference_rules

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RULE, _, _, NOPYTHON, REFERENCE = re.findall(
    r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL
)


def test_the_rule_of_the_example(monkeypatch):
    # its formula is in no file that the cache knows
    monkeypatch.setattr(cache, "directory", lambda: None)
    module = ModuleType("numadam.rules.signum")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(RULE, "CONTRIBUTING.md", "exec"), vars(module))
    names = {**vars(reference_rules)}
    exec(compile(REFERENCE, "CONTRIBUTING.md", "exec"), names)
    rng = np.random.default_rng(0)
    p, grads = rng.standard_normal(9), rng.standard_normal((30, 9))
    grads[:, 0] = 0.0
    want, state = names["signum"](p, grads, lr=0.01, beta=0.8, weight_decay=0.1)
    q, m = p.copy(), np.zeros(9)
    opt = module.Signum(p, lr=0.01, beta=0.8, weight_decay=0.1)
    for g in grads:
        opt.step(g)
        module.signum_update(q, g, m, lr=0.01, beta=0.8, weight_decay=0.1)
    np.testing.assert_allclose(p, want, rtol=1e-13)
    np.testing.assert_allclose(opt.state["m"], state["m"], rtol=1e-13)
    np.testing.assert_array_equal(q, p)


def test_it_names_what_is_there():
    compile(NOPYTHON, "CONTRIBUTING.md", "exec")
    for path, line in re.findall(r"^\| `(tests/\S+)` \| `?(.*?)`? ", TEXT, re.MULTILINE):
        assert (ROOT / path).is_file(), (path, line)
    for path, table in (
        ("tests/variants.py", "VARIANTS"),
        ("tests/rules/test_all_rules.py", "REFERENCES"),
        ("tests/cpu/test_machine_code.py", "NO_ROOT"),
        ("tests/nopython/test_nopython.py", "CASES"),
        ("tests/cuda/test_cuda_nopython.py", "RULES"),
    ):
        assert f"`{table}`" in TEXT
        assert re.search(rf"^{table} = ", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target

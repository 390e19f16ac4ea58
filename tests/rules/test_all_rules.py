"""Every rule of the table, with each of its compiled formulas, against the references.

A rule is three files; all else follows from them, and these tests say what is missing.
"""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest

import numadam
from numadam import rules
from numadam._core.options import DEFAULTS
from numadam.rules._define import problems
from tests import extras, generate, references, stubs
from tests.bits import assert_same_bits
from tests.runs import digest, load_into, loaded
from tests.variants import CASES, FUNCTIONS, VARIANTS, plan_of

pytestmark = pytest.mark.rule

CLASSES = rules.classes()
REFERENCES = {name: references.steps(file) for file, name in rules.CLASSES.items()}
STEPS = 30


def problem(dtype, n=50):
    """Start and gradients, many magnitudes, some of them zero."""
    rng = np.random.default_rng(3)
    p = rng.standard_normal(n)
    grads = rng.standard_normal((STEPS, n)) * 10.0 ** rng.uniform(-3, 2, n)
    grads[:, 0], grads[5], grads[1:, 1] = 0.0, 0.0, 0.0
    return p.astype(dtype), grads.astype(dtype)


def expected(name, options, p, grads, lr):
    cls = CLASSES[name]
    parameters = inspect.signature(REFERENCES[name]).parameters
    defaults = {key: value.default for key, value in inspect.signature(cls).parameters.items()}
    given = {"decoupled": cls.rule.decoupled, **defaults, **options}
    takes = {*parameters, "weight_decay", "decoupled"}
    known = {key: value for key, value in given.items() if key in takes}
    return REFERENCES[name](p, list(grads), **{**known, "lr": lr})


#: with weight decay only the first formula of each rule, in a sweep: it is the loop's
WITH_DECAY = [(case, 0.0) for case in CASES] + [
    extras.sweep(case, 0.1)
    for case, (name, options) in CASES.items()
    if options is VARIANTS[name][0]
]


@pytest.mark.parametrize(("case", "decay"), WITH_DECAY)
def test_float64(case, decay):
    name, options = CASES[case]
    options = {**options, "weight_decay": decay}
    p, grads = problem("float64")
    want, state = expected(name, {**options, "like": None}, p, grads, 0.01)
    opt = CLASSES[name](p, lr=0.01, **options)
    for g in grads:
        opt.step(g)
    np.testing.assert_allclose(p, want, rtol=1e-12, atol=3e-13)
    for key, value in state.items():
        if key in opt.state:
            got = np.asarray(opt.state[key]).reshape(np.shape(value))
            np.testing.assert_allclose(got, value, rtol=1e-12, atol=1e-300)


#: in float32 Adam; all of them in a sweep, and half of the rules in tests/faults
IN_FLOAT32 = [case if case == "Adam" else extras.sweep(case) for case in CASES]


@pytest.mark.parametrize("case", IN_FLOAT32)
def test_float32_stays_float32_and_close(case):
    name, options = CASES[case]
    p, grads = problem("float32")
    start = np.abs(p).astype(float)
    want, _ = expected(name, {**options, "like": None}, p.astype(float), grads.astype(float), 0.01)
    opt = CLASSES[name](p, lr=0.01, **options)
    for g in grads:
        opt.step(g)
    assert p.dtype == np.float32
    arrays = [view for view in opt.state.values() if np.shape(view) == p.shape]
    assert all(array.dtype == np.float32 for array in arrays)
    # every step rounds p once and has some roundings of its own
    length = np.maximum(start, np.abs(want)) + 0.01 * STEPS
    assert np.max(np.abs(p - want) / length) < STEPS * np.finfo(np.float32).eps


@pytest.mark.parametrize("case", CASES)
def test_nan_stays_where_it_is_and_everywhere_it_is(case):
    name, options = CASES[case]
    p, grads = problem("float64")
    clean = p.copy()
    opt, other = (CLASSES[name](x, lr=0.01, **options) for x in (p, clean))
    for k, g in enumerate(grads[:6]):
        other.step(g)
        bad = g.copy()
        bad[7] = np.nan if k == 1 else bad[7]
        opt.step(bad)
    assert np.isnan(p[7])
    assert_same_bits(np.delete(p, 7), np.delete(clean, 7))


@pytest.mark.parametrize("case", CASES)
def test_zero_gradients_move_nothing(case):
    name, options = CASES[case]
    p = np.linspace(-1, 1, 7)
    before = p.copy()
    opt = CLASSES[name](p, lr=0.1, **{**options, "weight_decay": 0.0})
    for _ in range(3):
        opt.step(np.zeros(7))
    np.testing.assert_array_equal(p, before)


@pytest.mark.parametrize("case", CASES)
def test_the_bare_function_is_the_same_step(case):
    name, options = CASES[case]
    p, grads = problem("float64")
    q = p.copy()
    opt = CLASSES[name](p, lr=0.01, **options)
    takes = inspect.signature(FUNCTIONS[name]).parameters
    state = {key: value.copy() for key, value in opt.state.items() if key in takes and key != "t"}
    # a function sees the rest in the arrays that it gets, and in their start
    own = {key: value for key, value in options.items() if key in takes or key in DEFAULTS}
    if own.get("amsgrad") is True:
        del own["amsgrad"]
    for t, g in enumerate(grads[:8], 1):
        opt.step(g)
        FUNCTIONS[name](q, g, **state, **({"t": t} if "t" in takes else {}), lr=0.01, **own)
        np.testing.assert_array_equal(q, p)
    for key, value in state.items():
        np.testing.assert_array_equal(value, opt.state[key])


@pytest.mark.parametrize("case", CASES)
def test_goes_on_bit_for_bit(case):
    name, options = CASES[case]
    p, grads = problem("float64")
    opt = CLASSES[name](p, lr=0.01, **options)
    for g in grads[:5]:
        opt.step(g)
    other = pickle.loads(pickle.dumps(opt))
    fresh = CLASSES[name](p.copy(), lr=0.01, **options)
    fresh.state = dict(opt.state)
    into = load_into(CLASSES[name](np.ones_like(p), lr=0.5, **options), opt)
    others = [other, fresh, loaded(opt), into]
    for g in grads[5:12]:
        for one in (opt, *others):
            one.step(g)
    for one in others:
        assert_same_bits(one.params, p)
        assert digest(one) == digest(opt)
        assert repr(one) == repr(opt)


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_user_reads(name):
    cls, function = CLASSES[name], FUNCTIONS[name]
    for text in (cls.__doc__, function.__doc__):
        assert text
        assert ">>>" in text
        assert "References" in text
    opt = cls(np.ones(2))
    assert repr(opt).startswith(f"{name}(lr=")
    for hyper in cls.rule.hypers:
        assert isinstance(getattr(opt, hyper.name), float)
        above = [hyper.high + 1.0] if hyper.high < np.inf else []
        for outside in (-1.0, np.nan, *above):
            with pytest.raises((TypeError, ValueError, AttributeError), match=f"^{hyper.name}: "):
                setattr(opt, hyper.name, outside)
            with pytest.raises(ValueError, match=f"^{hyper.name}: "):
                cls(np.ones(2), **{hyper.name: outside})


# --- rule files ----------------------------------------------------------------------------------


PACKAGE = Path(numadam.__file__).parent
FILES = sorted(path.stem for path in (PACKAGE / "rules").glob("[!_]*.py"))
#: the other files of a rule
OTHERS = (
    PACKAGE.parent / "docs" / "reference" / "rules" / "{}.md",
    Path(references.__file__).parent / "{}.py",
)


@pytest.mark.rule
@pytest.mark.parametrize("file", FILES)
def test_a_rule_has_three_files(file):
    for other in OTHERS:
        path = Path(str(other).format(file))
        assert path.exists(), f"The rule {file} has no {path}: see docs/development/rule.md."


@pytest.mark.rule
@pytest.mark.parametrize("other", OTHERS, ids=lambda path: path.parent.name)
def test_there_is_no_file_without_a_rule(other):
    found = {path.stem for path in other.parent.glob(other.name.format("[!_]*"))}
    assert found - {*FILES} <= {"index"}


@pytest.mark.rule
@pytest.mark.option
def test_there_is_no_stub_without_a_rule():
    assert {*PACKAGE.rglob("*.pyi")} <= generate.written().keys()


@pytest.mark.rule
@pytest.mark.option
@pytest.mark.parametrize("path", generate.written(), ids=lambda path: path.name)
def test_what_follows_from_the_rules_is_up_to_date(path):
    assert path.read_text(encoding="utf-8") == generate.written()[path], (
        f"{path} is out of date: run `python -m tests.generate`."
    )


def test_only_files_of_its_own_checkout_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(stubs, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="numadam is imported from another checkout, "):
        stubs.write({tmp_path / "stub.pyi": ""})
    assert not [*tmp_path.iterdir()]


@pytest.mark.rule
@pytest.mark.parametrize("name", rules.CLASSES.values())
def test_formulas_can_be_compiled_for_any_dtype(name):
    for of, options in CASES.values():
        if of == name:
            plan = plan_of(of, options, "float64")
            assert not list(problems(plan.rule, plan.element()))

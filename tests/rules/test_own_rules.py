"""`numadam.rule`: a formula of the user's in every loop, and sentences on what is wrong with it."""

from __future__ import annotations

import inspect
import math
import pickle

import numba
import numpy as np
import pytest

import numadam as na
from tests import extras
from tests.rules.yogi import ARGUMENTS, element, scalars

Yogi = na.rule("Yogi", element, scalars, **ARGUMENTS)


class Reference:
    """Yogi as the paper writes it, in NumPy."""

    def __init__(self, p, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-3):
        self.p, self.lr, self.betas, self.eps, self.t = p, lr, (beta1, beta2), eps, 0
        self.m = self.v = np.full_like(p, 1e-6)

    def step(self, g):
        self.t += 1
        beta1, beta2 = self.betas
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = self.v - (1 - beta2) * np.sign(self.v - g**2) * g**2
        m, v = self.m / (1 - beta1**self.t), self.v / (1 - beta2**self.t)
        self.p = self.p - self.lr * m / (np.sqrt(v) + self.eps)


def gradients(shape, steps=30, seed=3):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) * 10.0 ** random.uniform(-2, 1) for _ in range(steps)]


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-13), ("float32", 2e-5)])
def test_it_takes_the_steps_of_the_paper(dtype, rtol):
    x = np.linspace(-2, 3, 50).astype(dtype)
    reference, opt = Reference(x.astype(float)), Yogi(x)
    for g in gradients(50):
        reference.step(g.astype(dtype).astype(float))
        opt.step(g.astype(dtype))
    np.testing.assert_allclose(x, reference.p, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", ["float64", extras.sweep("float32"), extras.sweep("complex128")])
def test_a_rule_of_adams_formula_has_adams_bits(dtype):
    def element(p, g, gg, m, v, h):
        m = h.beta1 * m + h.alpha1 * g
        v = h.beta2 * v + h.alpha2 * gg
        if abs(m) < h.tiny:
            m = h.zero
        d = math.sqrt(v + h.root_e) + h.e
        return (h.s * m / d if d != h.zero else h.zero), m, v

    def scalars(c, q, lr, t):
        root = math.sqrt(1.0 - q.beta2_product)
        return dict(
            beta1=c.beta1,
            alpha1=1.0 - c.beta1,
            beta2=c.beta2,
            alpha2=1.0 - c.beta2,
            s=lr * root / (1.0 - q.beta1_product),
            e=c.eps * root,
            root_e=0.0,
        )

    arguments = {**ARGUMENTS, "start": None, "hypers": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}}
    Mine = na.rule("Adam", element, scalars, **arguments, nonnegative=("v",), modulus=("v",))
    options = {"lr": 0.05, "clip_norm": 3.0, "ema": 0.9, "bounds": (-2, 2)}
    own = {**options, "bounds": None} if dtype == "complex128" else options
    mine, ours = np.ones(70, dtype), np.ones(70, dtype)
    one, other = Mine(mine, **own), na.Adam(ours, **own)
    for g in gradients(70, 10):
        one.step(g.astype(dtype))
        other.step(g.astype(dtype))
    assert np.array_equal(mine, ours)
    assert np.array_equal(one.averaged, other.averaged)


def test_all_options_and_groups():
    params = {"a": np.ones(4, np.float32), "b": np.ones((2, 2), np.float32)}
    grads = {"a": np.full(4, 2.0, np.float32), "b": np.ones((2, 2), np.float32)}
    groups = {"b": {"lr": 0.001, "beta1": 0.5}}
    opt = Yogi(params, lr=0.1, groups=groups)
    opt.step(grads)
    alone = np.ones((2, 2), np.float32)
    Yogi(alone, lr=0.001, beta1=0.5).step(grads["b"])
    assert opt.t == 1
    assert np.array_equal(params["b"], alone)
    with pytest.raises(TypeError, match=r"^Yogi: there is no option 'clipnorm'\. "):
        Yogi(params, clipnorm=1.0)


def test_a_schedule_of_a_hyperparameter_and_setting_t():
    x, y = np.ones(3), np.ones(3)
    opt, reference = Yogi(x, beta1=lambda t: 0.9 if t else 0.5), Reference(y)
    for beta1, g in zip([0.5, 0.9, 0.9], gradients(3, 3), strict=True):
        opt.step(g)
        reference.betas = (beta1, 0.999)
        reference.t += 1
        reference.m = beta1 * reference.m + (1 - beta1) * g
    np.testing.assert_allclose(opt.state["m"], reference.m, rtol=1e-14)


@pytest.mark.sweep
def test_complex_parts_begin_at_start_each():
    z = np.array([1 + 2j, 3 - 1j], np.complex64)
    x = z.view(np.float32).copy()
    of_parts, of_reals = Yogi(z, lr=0.1), Yogi(x, lr=0.1)
    assert np.array_equal(of_parts.state["v"], np.full(2, 1e-6 + 1e-6j, np.complex64))
    for g in gradients(4, 5):
        of_parts.step(g.astype(np.float32).view(np.complex64))
        of_reals.step(g.astype(np.float32))
    assert np.array_equal(z.view(np.float32), x)
    with pytest.raises(ValueError, match=r"^complex_form: Yogi .* use 'parts'"):
        Yogi(z, complex_form="modulus")


def test_rows():
    x = np.ones((6, 3), np.float32)
    opt = Yogi(x, lr=0.1, sparse="lazy")
    opt.step(na.Rows(np.array([1, 4]), np.ones((2, 3), np.float32)))
    assert np.array_equal((x == 1).all(axis=1), [True, False, True, True, False, True])


@numba.njit
def bowl(x, g):
    f = 0.0
    for i in range(len(x)):
        g[i] = 2 * x[i]
        f += x[i] * x[i]
    return f


def in_python(x):
    return float((x**2).sum()), 2 * x


def test_it_minimises_in_python_compiled_and_in_lanes_with_the_same_bits():
    starts = gradients((9, 3), 1)[0]
    options = {"rule": Yogi, "lr": 0.05, "maxiter": 40}
    many = na.minimize_many(bowl, starts, **options)
    for start, x, x_last in zip(starts, many.x, many.x_last, strict=True):
        compiled = na.minimize(bowl, start, **options)
        python = na.minimize(in_python, start, jac=True, **options)
        assert np.array_equal(compiled.x, x)
        assert np.array_equal(python.x_last, x_last)


def test_pickle_snapshot_and_checkpoint(tmp_path):
    x = np.ones(3)
    opt = Yogi(x)
    opt.step(np.ones(3))
    again = pickle.loads(pickle.dumps(opt))
    snapshot = opt.snapshot()
    opt.save(tmp_path / "run")
    opt.step(np.ones(3))
    after = x.copy()
    again.step(np.ones(3))
    assert type(again) is Yogi
    assert np.array_equal(again.params, after)
    opt.restore(snapshot)
    opt.step(np.ones(3))
    assert np.array_equal(x, after)
    opt.load(tmp_path / "run")
    opt.step(np.ones(3))
    assert np.array_equal(x, after)


K = 3.0


def test_another_formula_is_another_loop_and_refuses_files(tmp_path, monkeypatch):
    def scalars(c, q, lr, t):
        return dict(step=K * lr)

    def descent(p, g, h):
        return h.step * g

    three = na.rule("Mine", descent, scalars)
    monkeypatch.setitem(globals(), "K", 5.0)
    five = na.rule("Mine", descent, scalars)
    again = na.rule("Mine", descent, scalars)
    assert three.rule.key != five.rule.key == again.rule.key
    for kind, factor in ((three, 3.0), (five, 5.0), (again, 5.0)):
        x = np.zeros(2)
        opt = kind(x, lr=1.0)
        opt.step(np.ones(2))
        assert x[0] == -factor
    three(np.zeros(2)).save(tmp_path / "run")
    with pytest.raises(na.CheckpointError, match=r"was saved by a rule Mine of another formula"):
        five(np.zeros(2)).load(tmp_path / "run")
    saved = three(np.zeros(2)).__getstate__()
    with pytest.raises(ValueError, match=r"^Mine: was pickled with another formula"):
        five.__new__(five).__setstate__(saved)
    options = {"jac": True, "maxiter": 3, "lr": 0.1, "checkpoint": tmp_path / "min"}
    na.minimize(in_python, np.ones(2), rule=three, **options)
    with pytest.raises(na.CheckpointError, match=r"^formula: the run has '\w+ \(Python 3\."):
        na.minimize(in_python, np.ones(2), rule=five, **options)


def test_helpers_compiled_by_numba_are_part_of_it():
    @numba.njit
    def half(x, h):
        return x * h.half

    kind = na.rule("Halves", lambda p, g, h: half(g, h), lambda c, q, lr, t: dict(half=0.5 * lr))
    x = np.zeros(2, np.float32)
    kind(x, lr=1.0).step(np.ones(2, np.float32))
    assert x[0] == -0.5


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_numbers_in_the_place_of_truth(dtype):
    """Parameter and state are numbers for Numba, not numbers or None."""

    def element(p, g, m, h):
        m = (p and g) or (m if m else h.step)
        return h.step * m, m

    kind = na.rule("Truth", element, lambda c, q, lr, t: dict(step=lr), state=("m",))
    x = np.array([0, 2, 2]).astype(dtype)
    opt = kind(x, lr=0.5)
    opt.step(np.array([3, 4, 0]).astype(dtype))
    np.testing.assert_array_equal(x.real, [-0.25, 0, 1.75])
    assert opt.t == 1


# --- what is wrong with a formula, before anything is compiled -----------------------------------

LIST, helper_value = [1], 2.0


def helper(x):
    return x


def written(head, body):
    """The function of a user who has written this."""
    names = dict(globals())
    exec(f"def mine({head}):\n    {body}", names)
    return names["mine"]


#: What the body of an element is, and what is wrong with it.
ELEMENTS = {
    "return 0.5 * m, m, v": "Mine: the literal 0.5 makes float32 arithmetic float64",
    "return h.step * m, m": "Mine: element: expected `return step, m, v`, .* got 2 values",
    "return h.stp * m, m, v": "Mine: h.stp is none of its scalars: beta1, .*, tiny, zero",
    "return helper_value * m, m, v": "Mine: element: the step is float64 where the arrays are flo",
    "return LIST[0] * m, m, v": "mine: LIST is of type list; use numbers",
    "return helper(m), m, v": "mine: helper is a Python function; decorate it with @numba.njit",
    "return nowhere * m, m, v": "mine: nowhere is not defined",
    "if g > m:\n        k = h.step\n    return k * m, m, v": "Mine: element: k is set in one br",
    "return m.foo, m, v": "Mine: element: Numba cannot compile it: Unknown attribute 'foo'",
    "return np.linalg.norm(g), m, v": "Mine: element: Numba cannot .* only supported for array ty",
    "print(m); return h.step * m, m, v": "mine: expected arithmetic on its arguments",
    "return h.step * max([g, m]), m, v": (
        r"Mine: element: holds list\(float32\); a loop holds numbers and tuples"
    ),
}


@pytest.mark.parametrize(("body", "text"), ELEMENTS.items())
def test_wrong_elements(body, text):
    with pytest.raises(TypeError, match=f"^{text}"):
        na.rule("Mine", written("p, g, m, v, h", body), scalars, **ARGUMENTS)


#: The same of scalars.
SCALARS = {
    "return dict({'step': lr})": r"Mine: scalars \(.*\): ",
    "return dict(step=sum([lr, t]))": (
        r"Mine: scalars \(.*\): holds list\(float64\); a loop holds numbers and tuples"
    ),
    "return dict(step=lr, **{'rate': t})": (
        r"Mine: scalars \(.*\): Numba cannot compile it: Use of unsupported opcode"
    ),
    "return dict(step=lr, _rate=t)": (
        "Mine: scalars: '_rate' cannot be the name of a scalar; use another"
    ),
    "return dict(step=lr, root=lr) if t > 3.0 else dict(step=lr, rate=lr)": (
        r"Mine: scalars \(each return is dict\(\.\.\.\) of the same names and of num"
    ),
    "if t > 3.0:\n        k = lr\n    return dict(step=k)": "Mine: scalars: .*'k'.* at t = 1",
    "return {'step': lr}": (
        r"Mine: scalars: expected `return dict\(name=number, ...\)`, got {'step': 0.1}"
    ),
    "return dict(step='a')": r"Mine: scalars: expected a number for step, got 'a' \(str\)",
    "return dict(step=c.beta3)": (
        "Mine: scalars: c.beta3 is none of its hyperparameters: beta1, beta2, eps"
    ),
    "return dict(zero=lr)": "Mine: scalars: zero is there by itself",
    "return dict(step=lr / (t - 1.0))": (
        "Mine: scalars: float division by zero, with the defaults at t = 1"
    ),
}


def plain(p, g, m, v, h):
    return h.step * m, m, v


@pytest.mark.parametrize(("body", "text"), SCALARS.items())
def test_wrong_scalars(body, text):
    with pytest.raises((TypeError, ValueError), match=f"^(?:{text})"):
        na.rule("Mine", plain, written("c, q, lr, t", body), **ARGUMENTS)


def test_wrong_signatures():
    text = r"^Mine: expected element\(p, g, m, v, h\), or with gg"
    with pytest.raises(TypeError, match=text):
        na.rule("Mine", lambda p, g, m, h: (h.step * m, m), scalars, **ARGUMENTS)
    text = r"^Mine: expected scalars\(c, q, lr, t\), got scalars\(c, q, lr\)"
    with pytest.raises(TypeError, match=text):
        na.rule("Mine", plain, lambda c, q, lr: dict(step=lr), **ARGUMENTS)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"powers": ("beta3",)}, "powers: 'beta3' is no hyperparameter; there are beta1, beta2"),
        ({"start": {"w": 1.0}}, "start: 'w' is no state array; there are m, v"),
        ({"start": {"m": math.inf}}, r"start\['m'\]: expected a number in"),
        ({"nonnegative": ("w",)}, "nonnegative: 'w' is no state array"),
        ({"state": "mv"}, r"state: expected names such as \('m', 'v'\), got the text 'mv'"),
        ({"state": ("m", "lr")}, "state: 'lr' is taken"),
        ({"state": ("a", "b", "c", "d")}, "state: expected at most 3 arrays, got 4"),
        ({"hypers": {"step": 1.0}}, "hypers: 'step' is taken"),
        ({"hypers": {"a b": 1.0}}, "hypers: expected names, got 'a b'"),
        ({"hypers": {"_a": 1.0}}, "hypers: '_a' begins with an underscore"),
        (
            {"hypers": {"beta1": (0.9, None, 1), "beta2": 0.9}},
            r"hypers: beta1: expected \(default, low, high\)",
        ),
        ({"hypers": {"beta1": 1.5, "beta2": 0.9}}, r"beta1: expected a number in \[0, 1\)"),
        ({"hypers": {"beta1": (0.9, 0, 2), "beta2": 0.9}}, r"powers: beta1 needs a range in"),
        ({"doc": 3}, "doc: expected a text or None, got 3"),
        ({"hypers": ["beta1"]}, "hypers: expected a dict of numbers by name, got"),
        ({"powers": "beta1"}, "powers: expected names such as .*, got the text 'beta1'"),
        ({"decoupled": "yes"}, "decoupled: expected True or False, got 'yes'"),
    ],
    ids=str,
)
def test_wrong_arguments(changed, text):
    with pytest.raises((TypeError, ValueError), match=f"^{text}"):
        na.rule("Mine", element, scalars, **{**ARGUMENTS, **changed})


def test_a_modulus_needs_the_common_square():
    def of_parts(p, g, m, v, h):
        return h.step * m, m, v + g * g

    with pytest.raises(ValueError, match=r"^modulus: v is real only where both parts have"):
        na.rule("Mine", of_parts, scalars, **ARGUMENTS, modulus=("v",))


def test_hyperparameters_are_attributes_and_other_libraries_have_no_preset():
    opt = Yogi(np.ones(2), beta1=0.5)
    opt.beta1 = 0.25
    assert opt.beta1 == 0.25
    with pytest.raises(ValueError, match=r"^beta1: expected a number in \[0, 1\)"):
        opt.beta1 = 1.0
    with pytest.raises(ValueError, match=r"^like: "):
        Yogi(np.ones(2), like="torch")
    assert "beta1 : float in [0, 1) or callable, default 0.9\n" in Yogi.__doc__


def test_what_is_no_function_or_no_name_is_refused():
    with pytest.raises(TypeError, match=r"^element: expected a Python function, got CPUDispatcher"):
        na.rule("Mine", numba.njit(element), scalars, **ARGUMENTS)

    async def later(p, g, m, v, h):
        return h.step * m, m, v

    def one_by_one(p, g, m, v, h):
        yield h.step * m, m, v

    for function in (later, one_by_one):
        with pytest.raises(TypeError, match=r"^element: .* got one with `async` or `yield`"):
            na.rule("Mine", function, scalars, **ARGUMENTS)
        with pytest.raises(TypeError, match=r"^scalars: .* got one with `async` or `yield`"):
            na.rule("Mine", element, function, **ARGUMENTS)
    with pytest.raises(ValueError, match=r"^name: expected names, got 'my rule'"):
        na.rule("my rule", element, scalars, **ARGUMENTS)


# --- the source of a step -------------------------------------------------------------------------


def test_the_source_of_a_step_has_the_formula():
    source = Yogi(np.zeros(1)).source
    assert source.startswith("def part(ps, gs, ms, vs, n, row):\n")
    assert inspect.getsource(element) in source


# --- check_rule ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [na.Adam, extras.sweep(Yogi)])
def test_all_forms_agree(kind):
    report = na.check_rule(kind)
    assert report.compared[0] == "Python and CPU, float32"
    assert "CPU serial and parallel, float64" in report.compared
    assert repr(report).startswith(f"{kind.__name__}: {len(report.compared)} forms agree.\n")


@pytest.mark.parametrize(
    ("planted", "text"),
    [
        (lambda p, g, gg, m, v, h: (*element(p, g, gg, m, v, h)[:2], v), "v at step 1: "),
        (lambda p, g, gg, m, v, h: element(p, -g, gg, m, v, h), "p at step 1: "),
    ],
)
def test_a_loop_of_another_formula_is_found(monkeypatch, planted, text):
    """Python runs the planted formula, and the compiled loop the one that it was made of."""
    Yogi(np.zeros(1)).step(np.ones(1))
    monkeypatch.setattr(type(Yogi(np.zeros(1))._settings.plan), "element", lambda plan: planted)
    with pytest.raises(AssertionError, match=f"^Python and CPU, float32: {text}"):
        na.check_rule(Yogi)


def no_scalars(c, q, lr, t):
    return dict(step=lr, limit=1e4)


@pytest.mark.parametrize(
    ("body", "options", "text"),
    [
        ("return h.step * g, v - g", {"nonnegative": ("v",)},
         "v at step 1: -.*, although `nonnegative` names v"),
        ("return h.step * g, math.exp(h.limit * g * g)", {},
         r"Mine: mine\(.*\) raises OverflowError \(math range error\) by Python"),
        # compiled in six forms before it is found
        extras.sweep("return h.step * (g if g > h.zero else h.zero), v", {"modulus": ()},
                     "Mine: complex_form='modulus': at step 1 gradients of"),
    ],
)  # fmt: skip
def test_a_formula_that_breaks_a_law_is_found(body, options, text):
    formula = written("p, g, v, h", body)
    broken = na.rule("Mine", formula, no_scalars, state=("v",), **options)
    with pytest.raises(AssertionError, match=text):
        na.check_rule(broken)


def with_functions(p, g, m, h):
    m = math.tanh(g) * math.exp(-abs(g)) + math.log1p(abs(m)) + math.hypot(g, p)
    return h.step * m, m


@pytest.mark.sweep
def test_functions_that_differ_in_the_last_place_are_no_fault():
    """Also where parameter and step nearly cancel: the difference is then that of the terms."""
    plain = na.rule("Mine", with_functions, no_scalars, state=("m",))
    assert len(na.check_rule(plain).compared) == 8


@pytest.mark.cuda("numba_cuda")
def test_what_cuda_lacks_is_told(monkeypatch):
    of_numpy = na.rule("Mine", lambda p, g, h: h.step * np.sign(g), no_scalars)
    with pytest.raises(AssertionError, match=r"^Mine: .* cannot compile it for CUDA: .*'sign'"):
        na.check_rule(of_numpy)


def test_scalars_that_python_cannot_compute_are_found():
    """Compiled, a division by zero gives inf, and the step is taken."""

    def scalars(c, q, lr, t):
        return dict(step=lr / (3.0 - t))

    broken = na.rule("Mine", lambda p, g, h: h.step * g, scalars)
    with pytest.raises(
        AssertionError, match=r"^Mine: scalars\(.*, 3\.0\) raises ZeroDivisionError"
    ):
        na.check_rule(broken)


def test_only_classes_of_rules_are_checked():
    for wrong in (na.Optimizer, "adam", element):
        with pytest.raises(TypeError, match=r"^rule: expected a class of optimisers, got "):
            na.check_rule(wrong)

"""Hyperparameters, counts and texts of options: ranges, and what contradicts.

Names of other libraries: the answer names what exists here, and nothing far is guessed.
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re

import numpy as np
import pytest

import numadam
import numadam as na
from numadam import rules
from numadam._core import options, synonyms
from numadam._core.hyper import (
    LR,
    AMSGrad,
    EpsForm,
    Hyper,
    at_start,
    check_choice,
    mismatch,
)
from numadam._core.keywords import Shared
from numadam._core.options import DEFAULTS
from numadam._optimizer.base import default_options, option
from numadam.schedules import Cosine

HALF = Hyper("beta", 0.0, 1.0)
CLOSED = Hyper("beta", 0.0, 1.0, closed=True)
OPEN = Hyper("scale", positive=True)


@pytest.mark.parametrize(
    ("hyper", "value", "error", "says"),
    [
        (HALF, 1.0, ValueError, "beta: expected a number in [0, 1), got 1.0."),
        (CLOSED, 1.5, ValueError, "beta: expected a number in [0, 1], got 1.5."),
        (OPEN, 0.0, ValueError, "scale: expected a number in (0, inf), got 0.0."),
        (LR, math.nan, ValueError, "lr: expected a number in [0, inf), got nan."),
        (LR, 10**400, ValueError, "lr: expected a number in [0, inf), got 1000"),
        (LR, True, TypeError, "lr: expected a number, got bool (True)."),
        (LR, "0.1", TypeError, "lr: expected a number, got str ('0.1')."),
        (LR, np.array(b"1"), TypeError, "lr: expected a number, got ndarray"),
        (LR, 1j, TypeError, "lr: expected a number, got complex (1j)."),
        (LR, np.ones(2), TypeError, "lr: expected a number, got ndarray"),
    ],
)
def test_out_of_range(hyper, value, error, says):
    for check in (
        hyper.check,
        hyper.check_or_schedule,
        lambda one: at_start(hyper, lambda steps: one),
    ):
        with pytest.raises(error, match="^" + re.escape(says)):
            check(value)


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (Cosine, r"lr: .* got the class Cosine. Pass Cosine\(...\)"),
        (lambda: 0.1, r"lr: is called with one argument, the steps taken, got <lambda>\(\)"),
        (lambda t, epoch: 0.1, r"lr: is called with one argument.*\(t, epoch\)"),
        (lambda t, *, epoch: 0.1, r"lr: is called with one argument"),
    ],
)
def test_schedules_that_cannot_be_called_with_a_step(schedule, says):
    with pytest.raises(TypeError, match=says):
        LR.check_or_schedule(schedule)


# --- options that take one of a few texts --------------------------------------------------------


@pytest.mark.option
def test_every_option_has_a_type_and_is_an_attribute():
    assert Shared.__annotations__.keys() == DEFAULTS.keys()
    attributes = {name: vars(numadam.Optimizer).get(name) for name in DEFAULTS}
    assert [name for name, one in attributes.items() if not isinstance(one, option)] == []


def test_the_text_names_the_option_its_choices_and_what_it_got():
    with pytest.raises(ValueError, match=r"^eps_form: expected 'paper' or 'hat', got 'max'\.$"):
        check_choice("eps_form", "max", EpsForm)
    text = mismatch("amsgrad", 1, AMSGrad, (True, False))
    assert text == "amsgrad: expected True, False, 'v', 'vhat' or 'paper', got 1."


# --- options that contradict ---------------------------------------------------------------------


LAZY = {"sparse": "lazy"}
REFUSED = [
    ({"max_skips": 3}, "max_skips: needs nonfinite='skip'."),
    ({"clip_norm": 1.0, "clip_array_norm": 1.0}, "clip_array_norm: clips each array by itself"),
    ({"decay_times_lr": False, "decoupled": False}, "decay_times_lr: L2 decay is part of the grad"),
    ({"ema_warmup": True}, "ema_warmup: needs an average, e.g. ema=0.999."),
    ({"ema_debias": True}, "ema_debias: needs an average, e.g. ema=0.999."),
    ({"ema": 0.9, "ema_debias": True, "ema_warmup": True}, "ema_debias: ema_warmup already keeps"),
    ({"ema": lambda t: 0.9, "ema_debias": True}, "ema_debias: divides by 1 - ema^t"),
    ({**LAZY, "ema": 0.9}, "ema: sparse='lazy' leaves rows alone"),
]
TAKEN = [
    {"nonfinite": "skip", "max_skips": 1},
    {"clip_norm": float("inf")},
    {"decay_times_lr": False, "decoupled": True},
    {"ema": 0.9, "ema_warmup": True},
]


def checked(given):
    """The options of Adam with these, checked."""
    rule, usual = na.Adam.rule, default_options(na.Adam)
    own = {k: v for k, v in usual.items() if k not in options.DEFAULTS and k != "lr"}
    shared = {k: v for k, v in given.items() if k not in own}
    return options.check(rule, "Adam", shared, {k: given.get(k, v) for k, v in own.items()})


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=range(len(REFUSED)))
def test_contradictions_are_refused_by_name(given, says):
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        checked(given)


@pytest.mark.parametrize("given", TAKEN, ids=range(len(TAKEN)))
def test_options_that_fit_are_taken(given):
    found = checked(given)
    assert {name: found[name] for name in given} == given


# --- synonyms ------------------------------------------------------------------------------------


KINDS = rules.classes().values()
OPTIONS = {"lr", *DEFAULTS}.union(*(inspect.signature(kind).parameters for kind in KINDS))
ARGUMENTS = {
    name for run in (na.minimize, na.minimize_many) for name in inspect.signature(run).parameters
}


def test_tables_lead_to_what_exists_and_shadow_nothing():
    for name, instead in synonyms._OPTIONS.items():
        assert name not in OPTIONS or name == "momentum", name
        assert isinstance(instead, str) or OPTIONS.issuperset(instead), name
    assert ARGUMENTS.isdisjoint(synonyms._OF_RUNS)
    for name, instead in synonyms._SCHEDULES.items():
        assert name not in na.schedules.__all__
        assert instead.split(",")[0] in (*na.schedules.__all__, "the function itself"), name
    assert not any(hasattr(na.Adam, name) for name in synonyms._ATTRIBUTES)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("learning_rate", "Write lr=..."),
        ("betas", "Write beta1=..., beta2=..."),
        ("max_norm", "Write clip_norm=..."),
        ("clipnorm", "Write clip_array_norm=..."),
        ("param_groups", "Write groups=..."),
        ("accumulation_steps", "Add the gradients of several calls, then take one step"),
        ("fused", "Leave it out"),
        ("weight_decoy", "Did you mean 'weight_decay'?"),
        ("clip_norms", "Did you mean 'clip_norm'?"),
        ("clip", "See numadam.Optimizer"),
    ],
)
def test_options_of_other_libraries(name, advice):
    with pytest.raises(TypeError) as of_class:
        na.Adam(np.ones(2), **{name: 0.9})
    with pytest.raises(TypeError) as of_function:
        na.adam_update(*np.ones((4, 2)), 1, **{name: 0.9})
    with pytest.raises(TypeError) as of_run:
        na.minimize(lambda x: (x @ x, 2 * x), np.ones(2), jac=True, **{name: 0.9})
    for caught in (of_class, of_function, of_run):
        assert f"there is no option {name!r}. {advice}" in str(caught.value)


@pytest.mark.parametrize("name", ["n_steps", "max_iter", "num_iters", "epochs", "steps"])
def test_arguments_of_other_loops(name):
    with pytest.raises(TypeError, match=f"^{name}: there is no such argument. Write maxiter=..."):
        na.minimize(lambda x: x @ x, np.ones(2), **{name: 5})


ATTRIBUTES = {
    "zero_grad": "Leave it out: gradients are passed to step",
    "state_dict": "Write opt.save(path), or opt.state.copy()",
    "get_last_lr": "Write opt.current_lr.",
    "betas": "Write opt.beta1, opt.beta2.",
    "apply_gradients": "Write opt.step(grads).",
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_other_libraries(name):
    opt = na.Adam(np.ones(2))
    with pytest.raises(AttributeError) as caught:
        getattr(opt, name)
    assert str(caught.value).startswith(f"Adam has no attribute {name!r}. ")
    assert ATTRIBUTES[name] in str(caught.value)
    with pytest.raises(AttributeError, match="to set"):
        setattr(opt, name, 1.0)


def test_other_attributes_are_missed_as_everywhere():
    opt = na.Adam(np.ones(2))
    for name in ("__array__", "_hidden", "completely_other"):
        assert not hasattr(opt, name)
        assert name not in dir(opt)
    assert {"step", "beta1", "state"} <= {*dir(opt)}
    assert {"zero_grad", "betas"}.isdisjoint(dir(opt))
    assert not hasattr(na.Adam, "zero_grad")
    with pytest.raises(AttributeError, match=r"'clip_norms' to set. Did you mean 'clip_norm'\?$"):
        opt.clip_norms = 1.0
    assert na.SGD(np.ones(2), momentum=0.5).momentum == 0.5  # of other rules a foreign name
    with pytest.raises(AttributeError, match="there is no average"):  # a property's own error
        _ = opt.averaged


def test_a_class_of_the_users_may_have_such_attributes():
    class Own(na.SGD):
        alpha = 2.0

        def zero_grad(self):
            return self.alpha

    opt = Own(np.ones(2))
    opt.iterations = 3
    assert (opt.zero_grad(), opt.iterations) == (2.0, 3)
    opt = na.Adam(np.ones(2))
    for same in (copy.copy(opt), copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert same.lr == opt.lr


def test_schedules_of_other_libraries():
    with pytest.raises(AttributeError, match=r"has no 'CosineAnnealingLR'. Use Cosine.$"):
        _ = na.schedules.CosineAnnealingLR
    with pytest.raises(AttributeError, match=r"has no 'Cosinus'.$"):
        _ = na.schedules.Cosinus


PUBLIC = {
    "Adamw": "AdamW",
    "adam": "Adam",
    "least_squares": "least_squares_many",
    "minimise": "minimize",
    "Cosine": "schedules.Cosine",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_names_of_the_package_that_were_meant(name):
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'\. Did you mean numadam"):
        getattr(na, name)
    with pytest.raises(AttributeError) as caught:
        getattr(na, name)
    assert str(caught.value).endswith(f" Did you mean numadam.{PUBLIC[name]}?")


@pytest.mark.parametrize("kind", [na.Adam, na.SGD])
def test_hyperparameters_go_by_name(kind):
    x = np.ones(2)
    says = rf"^{kind.__name__}: params and lr go by position, all else by name, as in "
    with pytest.raises(TypeError, match=says):
        kind(x, 1e-3, (0.9, 0.999))
    with pytest.raises(TypeError, match=says):
        kind(x, 1e-3, 0.9)


@pytest.mark.parametrize("rate", [0.1, np.float32(0.1), na.schedules.Constant(0.1)])
def test_a_rate_before_the_arrays_is_told(rate):
    for params in (np.ones(2), [np.ones(2)], {"a": np.ones(2)}):
        with pytest.raises(TypeError, match=r"^params: .*The order is Adam\(params, lr\)\.$"):
            na.Adam(rate, params)


@pytest.mark.parametrize("name", ["mask", "fixed", "vary"])
def test_elements_that_stay_have_equal_bounds(name):
    x = np.ones((2, 2))
    with pytest.raises(TypeError, match=r"no option .* Write groups={name: {'frozen': True}} for"):
        na.Adam(x, **{name: [0]})
    for call in (na.minimize, na.minimize_many):
        with pytest.raises(TypeError, match=f"^{name}: .* Bounds of equal low and high hold"):
            call(lambda x: (x @ x, 2 * x), x, jac=True, **{name: [0]})
    if name != "fixed":  # which it has
        with pytest.raises(TypeError, match=rf"^{name}: .* fixed=\[0, 2\] holds unknowns"):
            na.least_squares_many(lambda x, r: None, x, m=1, **{name: [0]})

"""Other libraries: their names for what is written here, their defaults as presets."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

Advice = TypeVar("Advice")

# --- names in other libraries --------------------------------------------------------------------

#: Similarity from which a name is taken for a misspelt one.
_SIMILAR = 0.8


def _by_word(table: Mapping[str, Advice]) -> dict[str, Advice]:
    """The entries of a table by each word of their keys."""
    return {word: advice for words, advice in table.items() for word in words.split()}


_ADD = "Add the gradients of several calls, then take one step: opt.step((g1 + g2) / 2)."
#: Options of optimisers: the names here, of which those are shown that the rule has; or an advice.
_OPTIONS: dict[str, tuple[str, ...] | str] = _by_word(
    {
        "learning_rate step_size stepsize eta init_lr": ("lr",),
        "lr_schedule schedule scheduler": ("lr",),
        "momentum": ("beta1",),
        "alpha": "Write lr=... for a step size, beta2=... for the decay of v.",
        "betas": ("beta1", "beta2"),
        "b1 beta_1": ("beta1",),
        "b2 beta_2 rho decay_rate": ("beta2",),
        "epsilon eps_hat": ("eps",),
        "max_norm max_grad_norm grad_clip gradient_clip": ("clip_norm",),
        "clip_grad_norm global_clipnorm clip_global_norm": ("clip_norm",),
        "clipnorm clip_by_norm": ("clip_array_norm",),
        "clipvalue clip_grad_value max_delta": ("clip_value",),
        "wd l2": ("weight_decay",),
        "use_ema ema_momentum ema_decay polyak": ("ema",),
        "every_k_schedule gradient_accumulation_steps accumulate accumulation_steps": _ADD,
        "accumulate_grad_batches": _ADD,
        "param_groups no_decay": ("groups",),
        "mask fixed frozen freeze trainable vary requires_grad": (
            "Write groups={name: {'frozen': True}} for whole arrays; bounds of equal low and high "
            "hold an element."
        ),
        "init_scale loss_scale": "Divide the gradient: opt.step(g / scale).",
        "initial_accumulator_value": ("initial_accumulator",),
        "constraints": ("bounds",),
        "foreach fused differentiable jit_compile": (
            "Leave it out: a step is always one compiled pass over all arrays."
        ),
    }
)

#: Arguments of `minimize`.
_OF_RUNS = _by_word(
    {
        "max_iter maxiters max_iters niter n_iter": "Write maxiter=...",
        "num_iters iterations steps n_steps": "Write maxiter=...",
        "num_steps nsteps max_steps epochs": "Write maxiter=...",
        "max_nfev max_eval maxeval": "Write maxiter=...",
        "optimizer algorithm": "Write rule='adam', rule='sgd' and so on.",
        "grad gradient jacobian fprime value_and_grad": (
            "Write jac=function, or jac=True where fun returns (f, gradient)."
        ),
        "atol rtol abstol tolerance": "Write gtol=..., ftol=... or xtol=...",
        "xrtol": "Write xtol=...",
        "verbose iprint show_progress": "Write progress=True for a bar.",
        "return_all": "The result has a history; callback=History(...) keeps more.",
        "finite_diff_rel_step": "Differences choose their own step; jac='3-point' is more exact.",
        "init start init_params y0": "The start is the second argument, x0.",
        "full_output": "The result has all of it.",
        "mask fixed frozen freeze vary": "Bounds of equal low and high hold an element of x.",
    }
)

#: Attributes of optimisers.
_ATTRIBUTES = _by_word(
    {
        "zero_grad": "Leave it out: gradients are passed to step(grads), and none is kept.",
        "param_groups": (
            "Options of their own for some arrays are groups=... when the optimiser is made; "
            "opt.lr and others are attributes."
        ),
        "add_param_group": "Make a new optimiser over all arrays.",
        "state_dict": "Write opt.save(path), or opt.state.copy() in memory.",
        "load_state_dict": "Write opt.load(path), or opt.state = saved.",
        "update apply apply_gradients": "Write opt.step(grads).",
        "minimize": "numadam.minimize(fun, x0) is a function of its own.",
        "init": "The optimiser has its state when it is made: opt.state.",
        "iterations": "Write opt.t.",
        "get_config": "Options are attributes; repr(opt) shows those that are not defaults.",
        "variables get_weights": "Write opt.state.",
        "set_weights": "Write opt.load(path), or opt.state = saved.",
        "parameters": "Write opt.params.",
        "get_last_lr": "Write opt.current_lr.",
    }
)

#: Schedules of torch, optax and Keras.
_SCHEDULES = _by_word(
    {
        "CosineAnnealingLR cosine_decay_schedule CosineDecay": "Cosine",
        "CosineAnnealingWarmRestarts": "Cosine, with restart_mult=1",
        "warmup_cosine_decay_schedule get_cosine_schedule_with_warmup": "WarmupCosine",
        "ExponentialLR exponential_decay ExponentialDecay": "Exponential",
        "StepLR": "Step",
        "MultiStepLR SequentialLR PiecewiseConstantDecay": "Piecewise",
        "piecewise_constant_schedule join_schedules": "Piecewise",
        "LinearLR PolynomialLR linear_schedule": "Polynomial",
        "polynomial_schedule PolynomialDecay": "Polynomial",
        "OneCycleLR cosine_onecycle_schedule": "OneCycle",
        "ConstantLR constant_schedule": "Constant",
        "LambdaLR": "the function itself, lr=lambda t: ...",
    }
)

#: Functions of SciPy and others, which a user may look for in this package.
_MEANT = _by_word(
    {
        "least_squares leastsq curve_fit": "least_squares_many",
        "fmin fmin_l_bfgs_b": "minimize",
        "approx_fprime": "check_grad",
        "save": "Optimizer.save",
    }
)

#: Names that are no attributes of optimisers, but may be looked for.
FOREIGN_ATTRIBUTES = (*_ATTRIBUTES, *_OPTIONS)


def _near(name: str, names: Iterable[str]) -> str:
    """The question for the name that `name` is probably meant to be, or ""."""
    near = difflib.get_close_matches(name, sorted({*names}), 1, _SIMILAR)
    return f"Did you mean {near[0]!r}?" if near else ""


def option_hint(name: str, names: Collection[str]) -> str:
    """Advice for an unknown option of a rule that has those of `names`, or ""."""
    known = _OPTIONS.get(name, ())
    if isinstance(known, str):
        return known
    here = [f"{option}=..." for option in known if option in names]
    if here:
        return f"Write {', '.join(here)}"
    return _near(name, names)


@functools.cache
def run_hint(name: str, names: tuple[str, ...]) -> str:
    """Advice for an unknown argument of `minimize`, which has `names`, or ""."""
    return _OF_RUNS.get(name) or _near(name, names)


def attribute_hint(name: str, names: Collection[str]) -> str:
    """Advice for an unknown attribute of an optimiser, which has `names`, or ""."""
    if name in _ATTRIBUTES:
        return _ATTRIBUTES[name]
    here = [f"opt.{option}" for option in _OPTIONS.get(name, ()) if option in names]
    if here and not isinstance(_OPTIONS[name], str):
        return f"Write {', '.join(here)}."
    return _near(name, names)


def schedule_hint(name: str) -> str:
    """Advice for a name that is no schedule, after a space, or ""."""
    return f" Use {_SCHEDULES[name]}." if name in _SCHEDULES else ""


def public_hint(name: str, names: Collection[str], schedules: Collection[str]) -> str:
    """Advice for a name that is no public one of the package, after a space, or ""."""
    known = {one.lower(): f"schedules.{one}" for one in schedules}
    known |= {one.lower(): one for one in names} | _MEANT
    near = difflib.get_close_matches(name.lower(), [*known], 1, _SIMILAR)
    return f" Did you mean numadam.{known[near[0]]}?" if near else ""


# --- presets -------------------------------------------------------------------------------------
# A preset is a set of keywords that stand in for the defaults; an explicit keyword overrides it.
# Each rule holds its own (`RuleSpec.presets`). What a library does alike in all rules is in `LIKE`;
# what changes the formula of one, the rule reads from the option `like` itself.


class Library(NamedTuple):
    """Habits of a library that are the same in all of its rules."""

    #: Adam is repeated bit for bit, so denormal moments are not flushed
    bit_exact: bool = False
    #: the average begins as the parameters after the first step
    late_average: bool = False
    #: added to a norm before it divides
    margin: float = 0.0


#: The presets; everything that lists them reads it here. optax has no default of lr.
LIKE = {
    "torch": Library(margin=1e-6),
    "optax": Library(),
    "keras": Library(bit_exact=True, late_average=True),
    "tf1": Library(bit_exact=True),
    "sklearn": Library(bit_exact=True),
    "numpy": Library(bit_exact=True),
}
#: Libraries whose numbers those of another preset are but for rounding, 1e-15 of a step.
_SAME_NUMBERS = {
    "quimb": "like='numpy'",
    "qiskit": "like='sklearn', beta2=0.99",
    "keras-jax": "like='keras'",
}
_OWN = Library()


def library(like: str | None) -> Library:
    """Habits of the library that a preset repeats; without a preset, numadam's own."""
    return LIKE[like] if like else _OWN


#: The same rule under another class, which has the presets of more libraries.
_SAME_RULE = {"AdamW": "write na.Adam(..., decoupled=True, weight_decay=0.01), or "}


def preset(presets: Mapping[str, Mapping[str, Any]], title: str, like: Any) -> Mapping[str, Any]:
    """The keywords of one class in one library, from those of the class in all of them."""
    if isinstance(like, str) and like in _SAME_NUMBERS:
        raise ValueError(
            f"like: {like!r} has no preset of its own; write {_SAME_NUMBERS[like]}, which is the "
            "same but for rounding."
        )
    if not isinstance(like, str) or like not in LIKE:
        raise ValueError(f"like: expected one of {', '.join(map(repr, LIKE))}, got {like!r}.")
    found = presets.get(like)
    if found is None:
        there = [name for name in LIKE if name in presets]
        raise ValueError(
            f"like: {like!r} has no {title}; {_SAME_RULE.get(title, '')}"
            + (f"use one of {', '.join(map(repr, there))}." if there else "leave it out.")
        )
    return found

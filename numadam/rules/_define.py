"""`numadam.rule`: an optimiser class from a formula of the user's."""

from __future__ import annotations

import dis
import hashlib
import inspect
import keyword
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba import errors, types

from numadam._core import options as op
from numadam._core.hyper import Hyper, check_switch
from numadam._core.plan import ROW_COUNTS, STATE_SLOTS
from numadam._core.rule import OF_EVERY_RULE, RuleSpec, named, with_class
from numadam._core.text import parameters_of
from numadam._jit import private
from numadam._jit.build import refuse_without_jit
from numadam._optimizer.base import OptimizerType
from numadam._optimizer.declared import optimizer_class
from numadam._optimizer.optimizer import Optimizer
from numadam.rules._frozen import frozen

# --- names and numbers ---------------------------------------------------------------------------

#: Flags of functions that return a coroutine or a generator.
_NOT_CALLED_AT_ONCE = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

#: Names that a state array or a hyperparameter cannot have.
_TAKEN = {"p", "g", "gg", "h", "t", "lr", "out", "like", "frozen", "params", "self", "shared"}
_TAKEN |= {"rule", *op.DEFAULTS, "average", ROW_COUNTS}


def _read_names(title: str, names: Any) -> tuple[str, ...]:
    """Names as a tuple, checked."""
    _refuse_no_names(title, names)
    found = tuple(names)
    for name in found:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{title}: expected names, got {name!r}.")
        if name.startswith("_"):
            raise ValueError(f"{title}: {name!r} begins with an underscore; use another name.")
        if name in _TAKEN or hasattr(Optimizer, name) or found.count(name) > 1:
            raise ValueError(f"{title}: {name!r} is taken; use another name.")
    return found


def _refuse_no_names(title: str, names: Any) -> None:
    """Refuse what is no collection of names: letters of a text could be taken for some."""
    if isinstance(names, str):
        raise TypeError(f"{title}: expected names such as ('m', 'v'), got the text {names!r}.")
    if not isinstance(names, Iterable):
        raise TypeError(f"{title}: expected names such as ('m', 'v'), got {names!r:.80}.")


def _refuse_others(title: str, names: Iterable[str], known: Sequence[str], what: str) -> None:
    """Refuse names that are not known."""
    _refuse_no_names(title, names)
    for name in names:
        if name not in known:
            raise ValueError(
                f"{title}: {name!r} is no {what}; there are {', '.join(known) or 'none'}."
            )


def _read_hyper(name: str, given: Any, is_power: bool) -> tuple[Hyper, float]:
    """A hyperparameter, and its default."""
    if isinstance(given, tuple) and (len(given) != 3 or None in given):
        raise ValueError(
            f"hypers: {name}: expected (default, low, high), three numbers (math.inf for no upper "
            f"end), got {given!r:.80}."
        )
    default, low, high = given if isinstance(given, tuple) else (given, None, None)
    if low is None:
        hyper = Hyper(name, 0.0, 1.0) if is_power else Hyper(name, -math.inf, positive=True)
    else:
        hyper = Hyper(name, float(low), float(high))
        if is_power and not 0.0 <= hyper.low < hyper.high <= 1.0:
            raise ValueError(
                f"powers: {name} needs a range in [0, 1], got [{low:g}, {high:g}): beyond it, "
                "its powers grow without end."
            )
    return hyper, hyper.check(default)


# --- sentences on what is wrong with a formula ---------------------------------------------------
# Numba would say it late and at length, or never: a literal number widens float32 arithmetic to
# float64, and a loop then is slow. The bytecode is read, which is there where source is not.


#: Instructions that have a number of the source in them, by version of Python.
_LOADS_OF_CONSTANTS = ("LOAD_CONST", "LOAD_SMALL_INT", "RETURN_CONST")


def problems(rule: RuleSpec, element: Any) -> Iterator[str]:
    """All that can be seen in the code of an element and its scalars; a sentence each."""
    try:
        parameters_of(rule, element)
    except TypeError as error:
        yield str(error)
    known, before = rule.scalar_type._fields, ""
    for instruction in dis.get_instructions(element):
        value, code = instruction.argval, instruction.opname
        if type(value) in (int, float, complex) and code in _LOADS_OF_CONSTANTS:
            yield (
                f"{rule.name}: the literal {value!r} makes float32 arithmetic float64; make it a "
                "scalar of `h`."
            )
        if before == "h" and code in ("LOAD_ATTR", "LOAD_METHOD") and value not in known:
            yield f"{rule.name}: h.{value} is none of its scalars: {', '.join(known)}."
        # newer versions of Python load two variables at once
        before = value[-1] if isinstance(value, tuple) and value else value


class _Returned(dict[str, Any]):
    """Stands for `dict` in scalars: a display ``{...}`` is of another type."""


def _first_scalars(title: str, scalars: Any, c: Any, q: Any) -> dict[str, float]:
    """Numbers that `scalars` returns at the first step, found by a call in Python."""
    form = inspect.signature(scalars)
    if len(form.parameters) != 4:
        raise TypeError(f"{title}: expected scalars(c, q, lr, t), got scalars{form}.")
    try:
        returned = with_class(scalars, _Returned)(c, q, 0.1, 1.0)
    except AttributeError as error:
        if error.obj is not c and error.obj is not q:
            raise
        letter, what = ("c", "hyperparameters") if error.obj is c else ("q", "products")
        there = ", ".join(getattr(error.obj, "_fields", ())) or "none"
        raise TypeError(
            f"{title}: scalars: {letter}.{error.name} is none of its {what}: {there}."
        ) from error
    except (ArithmeticError, NameError, ValueError) as error:
        raise ValueError(f"{title}: scalars: {error}, with the defaults at t = 1.") from error
    if type(returned) is not _Returned:
        raise TypeError(
            f"{title}: scalars: expected `return dict(name=number, ...)`, got {returned!r:.80}."
        )
    for name, value in returned.items():
        if name in OF_EVERY_RULE:
            raise TypeError(f"{title}: scalars: {name} is there by itself; use another name.")
        if name.startswith("_") or keyword.iskeyword(name):
            raise TypeError(
                f"{title}: scalars: {name!r} cannot be the name of a scalar; use another name."
            )
        number = (
            isinstance(value, (int, float, np.integer, np.floating)) and type(value) is not bool
        )
        if not number or (isinstance(value, int) and abs(value) > sys.float_info.max):
            raise TypeError(
                f"{title}: scalars: expected a number for {name}, got {value!r:.80} "
                f"({type(value).__name__})."
            )
    return dict(returned)


#: What a loop cannot hold: its functions count no references.
_CONTAINERS = (types.Buffer, types.List, types.ListType, types.DictType, types.Set)


def _inferred(title: str, function: Any, *arguments: Any) -> tuple[Any, list[Any]]:
    """The type of the result for arguments of these values, without compiling; and containers."""
    kinds = tuple(map(numba.typeof, arguments))
    try:
        code, found = private.inferred(function, kinds)
    except (errors.NumbaError, errors.UnsupportedBytecodeError, TypeError) as error:
        # the last of a named tuple's arguments
        plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without colours
        lines = [line.strip() for line in plain.splitlines() if line.strip()]
        raise TypeError(f"{title}: Numba cannot compile it: {' '.join(lines[:8])}") from error
    if unset := _unset(code):
        raise TypeError(
            f"{title}: {unset} is set in one branch and read behind it. Set it in every branch, or "
            "before."
        )
    inferred = found.typemap.values()
    return found.return_type, [kind for kind in inferred if isinstance(kind, _CONTAINERS)]


def _unset(code: Any) -> str:
    """A variable that some way through a function reads before it is set, or ""; 0 in a loop."""
    life = code.variable_lifetime
    for block, live in life.livemap.items():
        for before, _ in life.cfg.predecessors(block):
            for name in live - life.livemap[before] - life.usedefs.defmap[before]:
                if not name.startswith("$"):
                    return str(name)
    return ""


def _refuse_containers(title: str, containers: Sequence[Any]) -> None:
    """Refuse lists, arrays and the like inside a function."""
    if containers:
        kind = str(containers[0]).partition("<")[0]
        raise TypeError(f"{title}: holds {kind}; a loop holds numbers and tuples of them.")


def _check_types(rule: RuleSpec, element: Any, c: Any, q: Any, h: Any) -> None:
    """Refuse a formula whose results are of another number or type than the loops write."""
    title = f"{rule.name}: scalars (each return is dict(...) of the same names and of numbers)"
    found, held = _inferred(title, rule.compiled_scalars("", False), c, q, 0.1, 1.0)
    _refuse_containers(title, held)
    title, small = f"{rule.name}: element", [np.float32(0.5)] * len(parameters_of(rule, element))
    found, held = _inferred(title, element, *small[:-1], h)
    results = tuple(found.types) if isinstance(found, types.BaseTuple) else (found,)
    state = ", ".join(rule.state)
    if len(results) != 1 + len(rule.state) or isinstance(found, types.BaseTuple) != bool(state):
        raise TypeError(
            f"{title}: expected `return {', '.join(['step', *rule.state])}`, so that every state "
            f"array is written; got {len(results)} values."
        )
    for name, kind in zip(("the step", *rule.state), results, strict=True):
        if not isinstance(kind, types.Number):
            raise TypeError(f"{title}: expected a number for {name}, got {kind}.")
        if kind != types.float32:
            raise TypeError(
                f"{title}: {name} is {kind} where the arrays are float32: a number that is no "
                "scalar of `h` widens it. Make that number a scalar of `h`."
            )
    _refuse_containers(title, held)


# --- the class -----------------------------------------------------------------------------------

_DOC = """\
{summary}

Parameters
----------
{{{{params}}}}
{{{{lr}}}}
{hypers}{{{{shared}}}}

Attributes
----------
state : mapping
    {state}.
"""


def _make_class(spec: RuleSpec, doc: str | None, module: str) -> type[Optimizer]:
    """The class of a rule."""
    hypers = "".join(
        f"{hyper.name} : float in [{hyper.low:g}, {hyper.high:g}) or callable, "
        f"default {spec.defaults[hyper.name]:g}\n    Hyperparameter of the rule.\n"
        for hyper in spec.hypers
    )
    state = ", ".join(f'``"{name}"``' for name in ("t", *spec.state))
    text = _DOC.format(
        summary=inspect.cleandoc(doc or f"{spec.name}: a rule of {module}."),
        hypers=hypers,
        state=state,
    )
    names = {"__module__": module, "__doc__": text, "rule": spec}
    made: Any = OptimizerType(spec.name, (Optimizer,), names)
    return optimizer_class(made)


def rule(
    name: str,
    element: Callable[..., Any],
    scalars: Callable[..., Any],
    *,
    state: Sequence[str] = (),
    start: Mapping[str, float] | None = None,
    hypers: Mapping[str, float | tuple[float, float, float]] | None = None,
    powers: Sequence[str] = (),
    nonnegative: Sequence[str] = (),
    modulus: Sequence[str] | None = None,
    decoupled: bool = False,
    lr: float = 1e-3,
    doc: str | None = None,
) -> type[Any]:
    """Make an optimiser class from a formula on one element.

    The class has all that numadam's own have: one pass over memory on CPU and GPU, `minimize` and
    `minimize_many` with ``rule=``, every option of `Optimizer`, groups, schedules of its
    hyperparameters, checkpoints. There is no function on arrays (such as `adam_update`) and none
    in `numadam.nopython` for it.

    Parameters
    ----------
    name : str
        Name of the class. For pickle, also that of the variable of a module that it is bound to.
    element : callable
        ``element(p, g, gg, m, v, h) -> (step, m, v)`` computes the step and the new state of one
        element from its parameter, gradient, square of the gradient, state and scalars; the loop
        then writes ``p - step``. The arguments must have these names: after ``p, g`` and, if it is
        used, ``gg`` come those of `state`. It is compiled for float32 and float64, so it must not
        contain a literal number: make it a scalar of `h`. ``h.zero`` is 0, and below ``h.tiny`` a
        number is denormal: in a state array it becomes 0 at about one step in 64.
    scalars : callable
        ``scalars(c, q, lr, t) -> dict(name=number, ...)`` computes what all elements share at step
        t (1 at the first), once a step in float64. `c` has the hyperparameters and `q` the
        products that `powers` names. Each return is a call of `dict` with the same names, not a
        ``{}`` display.
    state : sequence of str
        Names of the state arrays, at most three.
    start : mapping of str to float, optional
        Initial values of state arrays, 0 by default; for complex numbers those of each part.
    hypers : mapping of str to float or (float, float, float), optional
        Hyperparameters: the default, or (default, smallest value, upper limit, which is excluded).
    powers : sequence of str
        Hyperparameters whose product over all steps `scalars` needs: ``("beta1",)`` gives it
        ``q.beta1_product``, beta1^t, also where a schedule changes beta1.
    nonnegative : sequence of str
        State arrays that hold squares: negative values are refused when they are assigned.
    modulus : sequence of str, optional
        State arrays that are real if ``complex_form="modulus"`` applies the formula to complex
        numbers, with ``gg`` the squared modulus; ``()`` for a rule that is linear in the gradient.
        Without it the formula is applied to real and imaginary part.
    decoupled : bool, default False
        Default of the option `decoupled`.
    lr : float, default 1e-3
        Default of the learning rate.
    doc : str, optional
        First lines of the docstring.

    Returns
    -------
    type
        A subclass of `Optimizer`: ``Name(params, lr=..., *, hyperparameters, **options)``.

    Raises
    ------
    TypeError, ValueError
        Before anything is compiled: a literal number, another number of arguments or results, a
        name that `h`, `c` or `q` lacks, an object that no compiled loop can hold, a scalar that is
        no number, a name that is taken.

    See Also
    --------
    check_rule : compare all forms of a rule.

    Notes
    -----
    The functions are read once, with the numbers and the functions compiled by Numba that they
    refer to: if a global changes later, call `rule` again. Compiled loops are cached on disk under
    a digest of all of that. Checkpoints and pickles contain the digest, and another formula
    refuses them; it is a digest of bytecode, so another minor version of Python refuses them too.

    Examples
    --------
    Yogi (Zaheer et al. 2018):

    >>> import math
    >>> import numpy as np
    >>> import numadam as na
    >>> def element(p, g, gg, m, v, h):
    ...     m = h.beta1 * m + h.alpha1 * g
    ...     v = v - h.alpha2 * (gg if v > gg else -gg if v < gg else h.zero)
    ...     return h.step * m / (math.sqrt(v) * h.root + h.eps), m, v
    >>> def scalars(c, q, lr, t):
    ...     c1, c2 = 1 - q.beta1_product, 1 - q.beta2_product
    ...     return dict(
    ...         beta1=c.beta1, alpha1=1 - c.beta1, alpha2=1 - c.beta2,
    ...         eps=c.eps, step=lr / c1, root=1 / math.sqrt(c2),
    ...     )
    >>> betas = {"beta1": 0.9, "beta2": 0.999}
    >>> Yogi = na.rule(
    ...     "Yogi", element, scalars, state=("m", "v"),
    ...     start={"m": 1e-6, "v": 1e-6}, hypers={**betas, "eps": 1e-3},
    ...     powers=("beta1", "beta2"), lr=0.01,
    ... )
    >>> x = np.array([3.0, -2.0])
    >>> opt = Yogi(x, lr=0.1, clip_norm=10.0)
    >>> for _ in range(300):
    ...     opt.step(2 * x)  # the gradient of sum(x**2)
    >>> bool(np.all(abs(x) < 1e-3))
    True
    """
    refuse_without_jit()
    _read_names("name", [name])
    for title, function in (("element", element), ("scalars", scalars)):
        if not isinstance(function, FunctionType):
            raise TypeError(
                f"{title}: expected a Python function, got {type(function).__name__}; numadam "
                "compiles it."
            )
        if function.__code__.co_flags & _NOT_CALLED_AT_ONCE:
            raise TypeError(
                f"{title}: expected a function that returns numbers, got one with `async` or "
                "`yield`. Write `def` and `return`."
            )
    for title, table in (("start", start), ("hypers", hypers)):
        if table is not None and not isinstance(table, Mapping):
            raise TypeError(f"{title}: expected a dict of numbers by name, got {table!r:.80}.")
    if doc is not None and not isinstance(doc, str):
        raise TypeError(f"doc: expected a text or None, got {doc!r:.80}.")
    names = _read_names("state", state)
    if len(names) > STATE_SLOTS:
        raise ValueError(f"state: expected at most {STATE_SLOTS} arrays, got {len(names)}.")
    known = _read_names("hypers", [*(hypers or {})])
    _read_names("state and hypers", [*names, *known])
    for title, given, of, what in (
        ("start", start or (), names, "state array"),
        ("powers", powers, known, "hyperparameter"),
        ("nonnegative", nonnegative, names, "state array"),
        ("modulus", modulus or (), names, "state array"),
    ):
        _refuse_others(title, given, of, what)
    begin = {
        key: Hyper(f"start[{key!r}]", -math.inf, positive=True).check(value)
        for key, value in (start or {}).items()
    }
    takes_square = "gg" in inspect.signature(element).parameters
    if modulus and not takes_square:
        raise ValueError(
            f"modulus: {', '.join(modulus)} is real only where both parts have the same square: "
            "let element take gg, the squared modulus, and use it in place of g * g."
        )
    parsed = [_read_hyper(key, given, key in powers) for key, given in (hypers or {}).items()]
    defaults = {hyper.name: default for hyper, default in parsed}
    (own_element, own_scalars), digest = frozen([element, scalars])
    real = None if modulus is None else tuple(modulus)  # state arrays of a complex number
    products = named("Products", tuple(f"{key}_product" for key in powers))
    c, q = named("Hypers", known)(**defaults), products(*(defaults[key] for key in powers))
    numbers = _first_scalars(name, own_scalars, c, q if powers else None)
    whole = digest, (names, known, tuple(powers), real), tuple(numbers)  # all that is compiled in
    spec = RuleSpec(
        name=name,
        state=names,
        hypers=tuple(hyper for hyper, _ in parsed),
        formula=lambda: own_element,
        scalars=own_scalars,
        lr=Hyper("lr").check(lr),
        defaults=defaults,
        decoupled=check_switch("decoupled", decoupled),
        powers=tuple(powers),
        nonnegative=tuple(nonnegative),
        initial=lambda options: begin,
        modulus=lambda options: real,
        squared=takes_square,
        digest=hashlib.sha256(repr(whole).encode()).hexdigest(),
        scalar_names=tuple(numbers),
    )
    for problem in problems(spec, own_element):
        raise TypeError(problem)
    h = spec.scalar_type(*map(np.float32, (*numbers.values(), 0.0, 0.0)))
    _check_types(spec, own_element, c, q if powers else None, h)
    # of the caller, as `namedtuple` does: pickle looks there for the class
    module = sys._getframe(1).f_globals.get("__name__", "__main__")  # noqa: SLF001
    return _make_class(spec, doc, module)

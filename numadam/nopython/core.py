"""Parts of the compiled functions of all rules.

They are compiled where the user calls them: for the CPU with the user's own ``@njit`` function,
for the GPU with the user's own kernel. The formulas are those of the rules; the loop over arrays
of any layout is here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numba import config, njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.registry import CPUDispatcher
from numba.extending import intrinsic, overload, register_jitable
from numba.np.numpy_support import as_dtype

from numadam._core import options as op
from numadam._core.element import make_element, put, whole_step
from numadam._core.plan import STATE_SLOTS
from numadam._core.rule import RuleSpec, named
from numadam._core.scalars import make_loop_scalars, make_power, tiny
from numadam._core.synonyms import option_hint
from numadam._jit.build import source_stamp
from numadam._jit.functions import cast, jit_once
from numadam._version import __version__

F = TypeVar("F", bound=Callable[..., Any])
#: Arguments of the public functions: arrays, and single numbers.
Array = np.ndarray[Any, Any]
Number = float | np.floating[Any]


#: Changes wherever a formula may have changed.
VERSION = f"{__version__}-{source_stamp()[:12]}"


class _Compiled(CPUDispatcher):  # type: ignore[misc]  # Numba has no types
    """A compiled function that Python, too, may call without its defaults.

    Numba types each default that a call leaves out anew: 60 to 200 us, and 1 us where none is.
    """

    #: by the number of arguments given by place: the defaults of all others
    usual: Mapping[int, Mapping[str, Any]] = MappingProxyType({})

    def __call__(self, *args: Any, **given: Any) -> Any:
        rest = self.usual.get(len(args))
        if given and rest is not None:
            count, rest = len(rest), {**rest, **given}
            if len(rest) != count:
                self._refuse_unknown(given)
                rest = None  # an argument that is given twice: Numba says so
        if rest is None:
            return _call(self, *args, **given)
        return _call(self, *args, *rest.values())

    def _refuse_unknown(self, given: Mapping[str, Any]) -> None:
        names = inspect.signature(self.py_func).parameters
        for name in given:
            if name not in names:
                hint = option_hint(name, names) or f"It has {', '.join(names)}."
                raise TypeError(f"{self.__name__}: there is no argument {name!r}. {hint}")


_call = CPUDispatcher.__call__  # 0.1 us less than by `super`


def compiled(function: F) -> F:
    """Compile a public function where it is called, under a symbol that no other version has."""
    defaults = {
        name: argument.default for name, argument in inspect.signature(function).parameters.items()
    }
    pretty = function.__qualname__
    function.__qualname__ = f"{VERSION}.{pretty}"
    made = njit(error_model="numpy")(function)
    if isinstance(made, CPUDispatcher):  # a plain function under NUMBA_DISABLE_JIT
        made.__class__ = _Compiled
        places = list(defaults)
        by_place = range(
            sum(default is inspect.Parameter.empty for default in defaults.values()), len(places)
        )
        made.usual = {n: {name: defaults[name] for name in places[n:]} for n in by_place}
    made.__qualname__ = pretty
    return made


# --- parts that depend on types -------------------------------------------------------------------
# Casts, and flat views of arrays of any layout. Each has a Python form beside it, so that all runs
# as plain Python under ``NUMBA_DISABLE_JIT``, for a debugger. An intrinsic stands where compiled
# code has no other way: CUDA functions return no new arrays, and a branch on ``is None`` is pruned
# only where it is true.


def _tuple_as(values, like):
    """A tuple of numbers, named or not, in the type of `like`."""
    numbers = [type(like)(value) for value in values]
    return type(values)(*numbers) if hasattr(values, "_fields") else tuple(numbers)


@overload(_tuple_as)
def _compiled_tuple_as(values, like):
    return lambda values, like: cast(values, like)


@register_jitable
def doubles(values: Any) -> Any:
    """A tuple of numbers as float64."""
    return _tuple_as(values, 1.0)


def _compiled_plain(typingctx: Any, values: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0]  # names are in the type alone

    return types.Tuple(list(values))(values), codegen


#: A tuple of numbers without names: Numba's own ``tuple`` keeps them, and adds no named ones.
plain: Any = tuple if config.DISABLE_JIT else intrinsic(_compiled_plain)


def _real(kind: Any) -> Any:
    """float32 or float64: Numba's type of the numbers in `kind`."""
    found = types.unliteral(getattr(kind, "dtype", kind))
    if found not in (types.float32, types.float64):
        hint = "; write 1.0 in place of 1" if isinstance(found, types.Integer) else ""
        raise TypingError(f"p: expected float32 or float64, got {found}{hint}.")
    return found


def complete(h: Any, p: Any) -> Any:
    """The scalars of a step as a formula takes them: of the type of p, with tiny and zero."""
    real = np.asarray(p).dtype
    return _tuple_as((*h, tiny(real), 0.0), real.type(1))


@overload(complete)
def _compiled_complete(h, p):
    real = as_dtype(_real(p))
    ends, one = (tiny(real), 0.0), real.type(1)
    return lambda h, p: cast(h + ends, one)


def number_as(x: Any, p: Any) -> Any:
    """A number in the type of the number or the array p; None stays."""
    return None if x is None else np.asarray(p).dtype.type(x)


@overload(number_as)
def _compiled_number_as(x, p):
    if isinstance(x, (types.NoneType, types.Omitted)):
        return lambda x, p: None
    one = as_dtype(_real(p)).type(1)
    return lambda x, p: cast((x,), one)[0]


def item(a: Any, i: Any) -> Any:
    """``a[i]``, or None where the array is absent."""
    return None if a is None else a[i]


@overload(item)
def _compiled_item(a, i):
    # by its type: `a is None` is pruned only where it is true, and a number could then be None
    if isinstance(a, types.NoneType):
        return lambda a, i: None
    return lambda a, i: a[i]


def _present(values, given):
    """The values whose place in `given` is not None; the value alone where it is one."""
    left = tuple(x for x, kind in zip(values, given, strict=True) if kind is not None)
    return left if len(left) > 1 else left[0]


def _compiled_present(typingctx: Any, values: Any, given: Any) -> Any:
    absent = (types.NoneType, types.Omitted)
    places = [i for i, kind in enumerate(given.types) if not isinstance(kind, absent)]
    result = types.Tuple([values.types[i] for i in places])
    if len(places) == 1:
        result = result.types[0]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        items = cgutils.unpack_tuple(builder, args[0])
        left = [items[i] for i in places]
        return left[0] if len(left) == 1 else context.make_tuple(builder, result, left)

    return result(values, given), codegen


present: Any = _present if config.DISABLE_JIT else intrinsic(_compiled_present)


def _check_arrays(kinds: tuple[Any, ...], names: tuple[str, ...]) -> set[str]:
    """The layouts of these arrays, given as Numba's types; refuses what does not fit `p`."""
    if not isinstance(kinds[0], types.Array):
        raise TypingError(
            f"p: expected an array, got {kinds[0]}. For one number there is the function whose "
            "name ends in _element."
        )
    real, axes = _real(kinds[0]), kinds[0].ndim
    layouts = set()
    for kind, name in zip(kinds, names, strict=True):
        if isinstance(kind, (types.NoneType, types.Omitted)):
            continue
        expected = f"{name}: expected an array of {real} with ndim={axes}, as p is, got"
        if not isinstance(kind, types.Array):
            raise TypingError(f"{expected} {kind}.")
        if (kind.dtype, kind.ndim) != (real, axes):
            raise TypingError(f"{expected} one of {kind.dtype} with ndim={kind.ndim}.")
        if name != "g" and not kind.mutable:
            raise TypingError(f"{name}: is read-only, and a step writes into it. Pass a copy.")
        layouts.add(kind.layout)
    return layouts


def _view(context: Any, builder: Any, kind: Any, result: Any, array: Any) -> Any:
    """The array as type `result` has it: flat, or as it is.

    Without its reference count: a loop that counts references is not vectorised. The caller keeps
    the array alive.
    """
    if not isinstance(kind, types.Array):
        return array
    old = cgutils.create_struct_proxy(kind)(context, builder, value=array)
    new = cgutils.create_struct_proxy(result)(context, builder)
    new.nitems, new.itemsize, new.data = old.nitems, old.itemsize, old.data
    if result == kind:
        new.shape, new.strides = old.shape, old.strides
    else:
        new.shape = cgutils.pack_array(builder, [old.nitems])
        new.strides = cgutils.pack_array(builder, [old.itemsize])
    new.meminfo = cgutils.get_null_value(new.meminfo.type)
    new.parent = cgutils.get_null_value(new.parent.type)
    return new._getvalue()


def make_views(names: tuple[str, ...]) -> Any:
    """``views(p, g, s0, s1, s2)``: flat where all are contiguous in one order, else as they are."""

    def plain(p, g, s0, s1, s2):
        return p, g, s0, s1, s2

    def views(typingctx: Any, p: Any, g: Any, s0: Any, s1: Any, s2: Any) -> Any:
        kinds = (p, g, s0, s1, s2)
        flat = _check_arrays(kinds, names) in ({"C"}, {"F"})
        results = [
            kind.copy(ndim=1, layout="C") if flat and isinstance(kind, types.Array) else kind
            for kind in kinds
        ]

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            found = zip(kinds, results, args, strict=True)
            made = [_view(context, builder, *entry) for entry in found]
            return context.make_tuple(builder, signature.return_type, made)

        return types.Tuple(results)(*kinds), codegen

    return plain if config.DISABLE_JIT else intrinsic(views)


# --- parts of one rule ----------------------------------------------------------------------------


def _without_decay(x, step, lost):
    return x - step


def _make_losing(wrap: Any) -> Any:
    whole = wrap(whole_step)

    def losing(x, step, lost):
        """With decoupled decay. Where there is none, no 0*x: it would make NaN of inf."""
        if lost != lost - lost:
            step = whole(x, step, None, lost, None)
        return x - step

    return wrap(losing)


def _make_powers(places: tuple[int, ...], wrap: Any) -> Any:
    """``powers(own, t)``: a tuple of the powers of the hyperparameters at these places."""
    if not places:
        return wrap(_no_powers)
    place, power, rest = places[0], make_power(wrap), _make_powers(places[1:], wrap)

    def powers(own, t):
        beta = own[place]
        if 0.0 <= beta <= 1.0:
            return (power(beta, t, None, 0), *rest(own, t))
        return (math.pow(beta, t), *rest(own, t))  # not checked here, so whatever it is

    return wrap(powers)


def _no_powers(own, t):
    return ()


def _make_scalars(rule: RuleSpec, options: Mapping[str, Any], wrap: Any) -> Any:
    """``scalars(own, products, t, lr, weight_decay) -> h``: all that an element needs, in float64.

    `own` are the rule's hyperparameters by name, and `products` those of its own that `advance`
    forms, up to the step.
    """
    names = [hyper.name for hyper in rule.hypers]
    powers, kind = _make_powers(tuple(map(names.index, rule.powers)), wrap), rule.product_type
    product_class = named("Products", ()) if kind is None else kind
    switches = tuple(float(entry(options)) for entry in rule.control.values())
    row = op.row(rule, options, 0.0)[: op.RULE]
    place = op.COLUMN.weight_decay
    before, after = tuple(row[:place]), tuple(row[place + 1 :])
    of_rule, of_loop = wrap(rule.compiled_scalars("", False)), make_loop_scalars("", wrap)
    shared, hypers = op.ControlRow, rule.hyper_type

    def scalars(own, products, t, lr, weight_decay):
        if t < 1:
            raise ValueError("t: expected the number of this step, 1 at the first.")
        rate, decay, numbers = np.float64(lr), np.float64(weight_decay), plain(doubles(own))
        c, row = hypers(*(numbers + switches)), shared(*(before + (decay,) + after))
        q = product_class(*(products + powers(numbers, np.float64(t))))
        h = of_rule(c, q, rate, np.float64(t))
        return plain(h) + (of_loop(row, rate, 1.0, 0.0).lost,)

    return wrap(scalars)


def _make_element(rule: RuleSpec, options: Mapping[str, Any], wrap: Any) -> tuple[Any, Any]:
    """Two forms of one element: of a loop, with all numbers of one type, and for the user."""
    formula, take = make_element(rule, rule.formula(**rule.variant(options)), wrap), number_as
    lose, kind = _make_losing(wrap) if rule.decoupled else wrap(_without_decay), rule.scalar_type
    size, absent = 1 + len(rule.state), (None,) * (STATE_SLOTS - len(rule.state))

    def inner(p, g, s0, s1, s2, h, lost):
        step, a, b, c = formula(p, g, g * g, s0, s1, s2, kind(*h))
        return lose(p, step, lost), a, b, c

    same = wrap(inner)

    def element(p, g, state, h):
        s0, s1, s2 = state + absent
        k, lost = complete(h[:-1], p), take(h[-1], p)
        numbers = same(p, take(g, p), take(s0, p), take(s1, p), take(s2, p), k, lost)
        return numbers[:size]

    return same, wrap(element)


def _make_walk(rule: RuleSpec, same: Any, wrap: Any) -> Any:
    """``walk(p, g, state, h)``: over arrays, in place. Absent ones are None."""
    absent = (None,) * (STATE_SLOTS - len(rule.state))
    names = ("p", "g", *rule.state, *[""] * len(absent))
    of_g, of_0, of_1, of_2 = (f"{name}: expected the shape of p." for name in names[1:])
    views, store = make_views(names), wrap(put)

    def one(i, p, g, s0, s1, s2, h, lost):
        p[i], a, b, c = same(p[i], g[i], item(s0, i), item(s1, i), item(s2, i), h, lost)
        store(s0, i, a)
        store(s1, i, b)
        store(s2, i, c)

    update = wrap(one)

    def run(p, g, s0, s1, s2, h, lost):
        if p.ndim == 1:
            for i in range(p.size):
                update(i, p, g, s0, s1, s2, h, lost)
        else:
            for index in np.ndindex(p.shape):
                update(index, p, g, s0, s1, s2, h, lost)

    loop = wrap(run, forceinline=True)

    def checked(p, g, s0, s1, s2, h):
        x, y, a, b, c = views(p, g, s0, s1, s2)  # first: it refuses what is no array
        if g.shape != p.shape:
            raise ValueError(of_g)
        if s0 is not None and s0.shape != p.shape:
            raise ValueError(of_0)
        if s1 is not None and s1.shape != p.shape:
            raise ValueError(of_1)
        if s2 is not None and s2.shape != p.shape:
            raise ValueError(of_2)
        loop(x, y, a, b, c, complete(h[:-1], p), number_as(h[-1], p))

    checked = wrap(checked)

    def walk(p, g, state, h):
        s0, s1, s2 = state + absent
        checked(p, g, s0, s1, s2, h)  # a call: only an argument that is None prunes a branch

    return wrap(walk)


def kit(cls: Any) -> dict[str, Any]:
    """The compiled parts of a rule in its default form; absent state arrays are None in them."""
    rule = cls.rule
    given = inspect.signature(cls.__init__).parameters.items()
    defaults = {
        name: argument.default for name, argument in given if argument.default is not argument.empty
    }
    options = {**op.DEFAULTS, **defaults}
    same, element = _make_element(rule, options, jit_once)
    return {
        # the class of the rule's hyperparameters
        "_Hypers": named("Hypers", tuple(hyper.name for hyper in rule.hypers)),
        # ``(hypers, products, t, lr, weight_decay) -> h``
        "_scalars": _make_scalars(rule, options, jit_once),
        # ``(p, g, state, h) -> (p, *state)``, `state` a tuple of numbers
        "_element": element,
        # ``(p, g, state, h)``, `state` a tuple of arrays
        "_walk": _make_walk(rule, same, jit_once),
    }

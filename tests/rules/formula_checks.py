"""Sentences on what is wrong with a rule: what Numba would say late and at length, or never."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, get_type_hints

from numadam._core.element import parameters_of
from numadam._core.rule import RuleSpec


def problems(rule: RuleSpec, element: Any) -> Iterator[str]:
    """All that is wrong with an element of a rule, and with its scalars; a sentence each."""
    yield from _of_parameters(rule, element)
    yield from _of_scalars(rule)
    tree = _tree(element)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, complex):
            yield (
                f"{rule.name}: the literal {node.value!r} makes float32 arithmetic float64; make "
                "it a scalar of `h`."
            )
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "h":
            known = rule.scalar_type._fields
            if node.attr not in known:
                yield f"{rule.name}: h.{node.attr} is none of its scalars: {', '.join(known)}."
        if isinstance(node, ast.Return):
            yield from _of_result(rule, node.value)


def _tree(element: Any) -> ast.FunctionDef:
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(element))).body
    assert isinstance(found, ast.FunctionDef)
    return found


def _of_parameters(rule: RuleSpec, element: Any) -> Iterator[str]:
    try:
        parameters_of(rule, element)
    except TypeError as error:
        yield str(error)


def _of_result(rule: RuleSpec, value: Any) -> Iterator[str]:
    items = value.elts if isinstance(value, ast.Tuple) else [value]
    names = tuple(getattr(item, "id", ast.unparse(item)) for item in items[1:])
    if names != rule.state:
        state = ", ".join(rule.state)
        yield (
            f"{rule.name}: expected `return step, {state}`, so that every state array is written; "
            f"got `return {', '.join(map(ast.unparse, items))}`."
        )


def _of_scalars(rule: RuleSpec) -> Iterator[str]:
    c = rule.hyper_type(*[0.5] * len(rule.hyper_type._fields))
    kind = rule.product_type
    q = None if kind is None else kind(*[0.5] * len(kind._fields))
    wanted = {"scalars": rule.scalars, **rule.scalars_like}
    returned = get_type_hints(rule.scalars)["return"]
    for name, function in wanted.items():
        try:
            found = function(c, q, 0.1, 1.0, True)
        except AttributeError as error:
            names = ", ".join(getattr(kind, "_fields", ()))
            yield f"{rule.name}: {name}: {error}; its products `q`: {names or 'none'}."
            continue
        yield from _of_tuple(f"{rule.name}: {name}", found, returned)
    for name, function in {"advance": rule.advance, **rule.advance_like}.items():
        if function is not None:
            after = get_type_hints(function)["return"]
            yield from _of_tuple(f"{rule.name}: {name}", function(c, q, 1.0, True), after)


def _of_tuple(name: str, found: Any, kind: Any) -> Iterator[str]:
    if type(found) is not kind:
        yield (
            f"{name}: expected the {len(kind._fields)} numbers of {kind.__name__}"
            f"({', '.join(kind._fields)}), got {found!r}."
        )
    else:
        for field, value in found._asdict().items():
            if not isinstance(value, float):
                yield f"{name}: {field} is {value!r}; write a float, for one type on every path."

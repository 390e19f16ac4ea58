"""Groups: options of their own for some of the arrays, chosen by patterns on their paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from numadam._arrays.tree import Tree
from numadam._core import options as op
from numadam._core.hyper import LR
from numadam._core.rule import RuleSpec
from numadam._settings.learning_rate import is_plain, leaf_rates

Overrides = dict[str, Any]


def dotted(path: Sequence[Any]) -> str:
    """The path of an array in its nesting, e.g. ``"layers.0.bias"``."""
    return ".".join(map(str, path))


def _matches(path: Sequence[Any], pattern: str) -> bool:
    """Whether a pattern fits the array, or a container that it lies in."""
    return any(fnmatchcase(dotted(path[:k]), pattern) for k in range(len(path), 0, -1)) or (
        not path and fnmatchcase("", pattern)
    )


def leaf_overrides(groups: Any, paths: Sequence[Sequence[Any]], rule: RuleSpec) -> list[Overrides]:
    """Options that the groups set for each array; of two that fit, the later one wins.

    Raises
    ------
    TypeError, ValueError
        For an option that a group cannot set, and for a pattern that fits no array.
    """
    found: list[Overrides] = [{} for _ in paths]
    if groups is None:
        return found
    if not isinstance(groups, Mapping):
        raise TypeError(
            "groups: expected a mapping of patterns to options, such as "
            f"{{'*.bias': {{'weight_decay': 0.0}}}}, got {type(groups).__name__}."
        )
    allowed = ("frozen", *op.OF_GROUPS, *(hyper.name for hyper in rule.hypers))
    for pattern, options in groups.items():
        if not isinstance(pattern, str) or not isinstance(options, Mapping):
            raise TypeError(
                f"groups: expected a pattern and its options, got {pattern!r}: {options!r}."
            )
        for name in options:
            if name not in allowed:
                raise ValueError(
                    f"groups[{pattern!r}]: cannot set {name!r}; a group may set "
                    f"{', '.join(allowed)}."
                )
        if not isinstance(options.get("frozen", False), bool):
            raise TypeError(f"groups[{pattern!r}]['frozen']: expected True or False.")
        hits = [k for k, path in enumerate(paths) if _matches(path, pattern)]
        if not hits:
            known = ", ".join(repr(dotted(path)) for path in paths[:6])
            known += ", ..." if len(paths) > 6 else ""
            short = pattern.removeprefix("*.")
            use = f" Write {short!r}." if any(_matches(path, short) for path in paths) else ""
            raise ValueError(f"groups[{pattern!r}]: fits no array; their paths are {known}.{use}")
        for k in hits:
            found[k].update(options)
    return found


def group_overrides(
    rule: RuleSpec, options: Mapping[str, Any], lr: Any, tree: Tree
) -> list[Overrides]:
    """Options that differ from array to array, checked: groups, and a step size for each."""
    if options["groups"] is None and is_plain(lr):
        return [{} for _ in range(tree.size)]
    overrides = leaf_overrides(options["groups"], tree.paths(), rule)
    if not is_plain(lr):
        rates = leaf_rates(lr, tree)
    for k, own in enumerate(overrides):
        if is_plain(own.get("lr", ())):
            own["lr"] = LR.check_or_schedule(own["lr"])
        elif not is_plain(lr):
            own.setdefault("lr", rates[k])
        values = {key: own[key] for key in own if key not in ("frozen", "lr")}
        if not values:
            continue
        checked = op.change(rule, options, values)
        own.update({key: checked[key] for key in values})
        if rule.present(checked) != rule.present(options):
            raise ValueError(f"groups: {values!r} needs other state arrays than {rule.name} has.")
    return overrides

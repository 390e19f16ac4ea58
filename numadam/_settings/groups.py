"""Options of single arrays: learning rates and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from array_api_compat import array_namespace

from numadam._arrays.checks import refuse_more_than_numbers
from numadam._arrays.tree import Tree
from numadam._core import options as op
from numadam._core.hyper import LR, check_switch
from numadam._core.rule import RuleSpec
from numadam._settings.bounds import as_numbers, fits

# --- learning rates ------------------------------------------------------------------------------


def is_plain(lr: Any) -> bool:
    """Whether a step size is one number, or a callable, for all arrays."""
    return not isinstance(lr, (list, tuple, Mapping)) and getattr(lr, "ndim", 0) == 0


def check_rate(lr: Any, leaf: Any, name: str) -> Any:
    """A step size per element: finite, not negative, and of a shape that fits."""
    xp = array_namespace(leaf)
    refuse_more_than_numbers(lr, "lr", "expected a number or an array")
    try:
        values = as_numbers(xp, lr, "lr")
    except (TypeError, ValueError) as error:
        raise TypeError(f"lr: expected a number or an array for {name}, got {lr!r:.80}.") from error
    if not fits(values, leaf):
        raise ValueError(
            f"lr: expected a number or an array that broadcasts to shape {leaf.shape} of {name}, "
            f"got shape {values.shape}."
        )
    if not bool(xp.all((values >= 0.0) & xp.isfinite(values))):
        raise ValueError(f"lr: expected finite numbers >= 0 for {name}.")
    return values


def leaf_rates(lr: Any, tree: Tree) -> list[Any]:
    """The step sizes of the arrays, given in the nesting of the parameters."""
    if tree.is_leaf:
        return [lr]
    rates = list(tree.flatten(lr, "lr"))
    return [LR.check_or_schedule(rate) if is_plain(rate) else rate for rate in rates]


# --- groups --------------------------------------------------------------------------------------


Overrides = dict[str, Any]


def dotted(path: Sequence[Any]) -> str:
    """The path of an array in its nesting, e.g. ``"layers.0.bias"``."""
    return ".".join(map(str, path))


def _matches(path: Sequence[Any], pattern: str) -> bool:
    """Whether a pattern fits the array, or a container that it lies in."""
    lengths = range(1, len(path) + 1) or [0]  # 0: the only array has no path
    return any(fnmatchcase(dotted(path[:length]), pattern) for length in lengths)


def leaf_overrides(groups: Any, paths: Sequence[Sequence[Any]], rule: RuleSpec) -> list[Overrides]:
    """Options that the groups set for each array; of two that fit, the later one wins."""
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
        check_switch(f"groups[{pattern!r}]['frozen']", options.get("frozen", False))
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
        if rule.initial(checked) != rule.initial(options):
            raise ValueError(
                f"groups: {values!r} sets the start of the state, which is one for all arrays; "
                "assign opt.state of these arrays instead."
            )
    return overrides

"""Settings of arrays without options of their own: computed once for each set of options."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from numadam._arrays.layout import FEW
from numadam._core.frozen import check_frozen
from numadam._core.rule import RuleSpec
from numadam._settings.bounds import Pair
from numadam._settings.groups import Overrides
from numadam._settings.settings import Settings, are_numbers


def settings_for(
    rule: RuleSpec,
    options: dict[str, Any],
    frozen: Hashable | None,
    leaves: Sequence[Any],
    names: Sequence[str],
    overrides: Sequence[Overrides],
    pairs: Sequence[Pair],
    masks: Sequence[np.ndarray] = (),
) -> Settings:
    """As `Settings`. Those of options that make a key are computed once: that takes 80 us.

    `frozen` is that key, None where there is none; see `numadam._core.frozen`.
    """
    if frozen is not None and 0 < len(leaves) <= FEW and not any(overrides):
        pair, count = pairs[0], len(leaves)
        if are_numbers(pairs) and pairs.count(pair) == count:
            return _alike(rule, frozen, leaves[0].dtype.type, count, pair).copy()
    return Settings(rule, options, leaves, names, overrides, pairs, masks)


@functools.lru_cache(maxsize=256)
def _alike(rule: RuleSpec, frozen: Any, kind: type[Any], count: int, pair: Pair) -> Settings:
    """Settings of arrays that have no options of their own."""
    leaves = [np.empty(0, kind)] * count
    options = check_frozen(rule, "", *frozen)
    return Settings(rule, options, leaves, [""] * count, [{}] * count, [pair] * count)

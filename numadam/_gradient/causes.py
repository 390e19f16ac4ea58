"""Causes of wrong derivatives: what they and the right ones have in common, in words."""

from __future__ import annotations

import numpy as np

from numadam._gradient.differences import SAFETY, Verdicts
from numadam._gradient.point import Point, Residuals


def _transposed(g: np.ndarray) -> np.ndarray:
    return g.T if g.ndim == 2 and g.shape[0] == g.shape[1] else g


#: What a gradient may be, in words, and how each array of the right one comes of it.
_ARRANGEMENTS = (
    ("the conjugate", np.conj),
    ("transposed", _transposed),
    ("in Fortran order, column by column", lambda g: g.reshape(-1).reshape(g.shape, order="F")),
    ("in Fortran order, column by column", lambda g: g.reshape(-1, order="F").reshape(g.shape)),
    ("the conjugate, transposed", lambda g: _transposed(g).conj()),
    ("in reversed order", lambda g: g[::-1] if g.ndim else g),
    ("moved by one place", lambda g: np.roll(g, -1)),
    ("moved by one place", lambda g: np.roll(g, 1)),
)
#: What a gradient may lack, in words, and the term of an x.
_TERMS = (
    ("lacks {:.4g} in each element", np.ones_like),
    ("lacks {:.4g} * x, such as that of a penalty on x", np.array),
)
#: What a factor of n and of 1/n may be, in words. Numbers from 4 on are told from powers.
_OF_MEANS = (
    (1, ", as a sum in place of a mean of {:,} would be"),
    (-1, ", 1/{:,}, as a mean in place of a sum would be"),
)


def cause(point: Point, table: Verdicts) -> str:
    """Words for all derivatives, for those of one array or column, or for the wrong ones; or ""."""
    smooth, elements = np.isfinite(table.spread), [probe.element for probe in table.probes]
    groups = np.array(["" if place is None else point.group(place) for place in elements])
    parts = [(f"in {name} ", smooth & (groups == name)) for name in dict.fromkeys(groups) if name]
    wrong = smooth & table.wrong & table.is_element
    parts = [("", smooth), *parts, ("in these ", wrong & (wrong.sum() > 1))]
    with np.errstate(all="ignore"):  # gradients may be as large as numbers are
        for where, part in parts:
            if table.wrong[part].any() and (text := _text(point, table, part)):
                return f"{where}it {text}"
    return ""


def _text(point: Point, table: Verdicts, part: np.ndarray) -> str:
    """Words for derivatives that one rearrangement, or one term, explains; or ""."""
    unit = np.abs(table.value[part]).max() or 1.0  # squares may overflow or underflow
    given, slopes, errors = (a[part] / unit for a in (table.formula, table.value, table.error))
    if not given.any() and slopes.any():
        return "is 0, where fun changes"
    rows, d = (
        [("", 0.0 * given, given)],
        np.array([table.probes[k].d for k in np.flatnonzero(part)]),
    )
    if not isinstance(point, Residuals):
        arrays = point.arrays(np.where(np.isfinite(table.J), table.J, 0.0)[0])
        for words, arrange in _ARRANGEMENTS:
            rows.append((words, 0.0 * given, d @ point.flat(map(arrange, arrays)) / unit))
        if len(d) > 2 and table.wrong[part].sum() > 1:
            rows += [(words, given, d @ term(point.x) / unit) for words, term in _TERMS]
    for words, base, along in rows:
        size = np.abs(along).max() or 1.0
        factor = float(along @ (slopes - base) / size / (along @ along / size))
        reached = base + factor * along
        allowed = table.tolerance * np.maximum(abs(reached), abs(slopes)) + SAFETY * errors
        if factor and (abs(reached - slopes) <= allowed).all():
            return words.format(factor) if base.any() else _times(point, words, 1 / factor, table)
    return ""


def _times(point: Point, words: str, factor: float, table: Verdicts) -> str:
    """``is transposed, and 2.000 times as large``."""
    near, words = 10 * table.tolerance, words and f"is {words}"
    if abs(factor + 1) <= near:
        return f"{words}{', and ' if words else ''}has the wrong sign"
    if words:
        return words if abs(factor - 1) <= near else f"{words}, and {factor:#.4g} times as large"
    text = f"is {factor:#.4g} times what differences of fun give"
    for n in map(int, [*np.diff(point.ends, prepend=0), point.ends[-1]]):
        for power, told in _OF_MEANS:
            if n > 3 and abs(factor / float(n) ** power - 1) <= table.tolerance:
                return text + told.format(n)
    return text

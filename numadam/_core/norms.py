"""Norms of gradients: what follows from a sum of squares."""

from __future__ import annotations

import math

from numba.extending import register_jitable


@register_jitable
def norm(total, exponent):
    """The norm: infinite where it is beyond float64, though the elements are finite."""
    return math.ldexp(math.sqrt(total), exponent)


@register_jitable
def clip_factor(total, exponent, limit, margin, tiny):
    """The clip factor for a norm of at most `limit`, as ``(pre, factor)``: x becomes x*pre*factor.

    It is ``min(1, limit / (norm + margin))``, and pre is 1. A factor below `tiny`, the smallest
    normal number of the arrays' dtype, would lose digits or be 0: then ``pre = tiny``, a power of
    two, which is exact. An infinite limit clips nothing. The factor is NaN where the norm is not
    finite: no gradient becomes 0 in silence.

    The norm is ``sqrt(total) * 2**exponent``, the limit is at least 0, and the margin 1e-6 as in
    torch, or 0.
    """
    if limit == math.inf:
        return 1.0, 1.0
    if not math.isfinite(total) or math.isnan(limit):
        return 1.0, math.nan
    if total == 0.0:
        return 1.0, 1.0
    if limit == 0.0:
        return 1.0, 0.0
    # norm and quotient may be outside of float64's range: divide mantissas, subtract exponents
    below, down = math.frexp(math.sqrt(total) + math.ldexp(margin, -exponent))
    above, up = math.frexp(limit)
    quotient, shift = above / below, up - down - exponent
    if shift > 0 or (shift == 0 and quotient >= 1.0):
        return 1.0, 1.0
    factor = math.ldexp(quotient, shift)
    if factor >= tiny:
        return 1.0, factor
    return tiny, math.ldexp(quotient, shift - math.frexp(tiny)[1] + 1)

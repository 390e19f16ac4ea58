"""A step against the loop that a user of Numba writes for it; one with the same options, too.

The loops stand here and in `numadam._bench.peers` word for word: float32 scalars as arguments,
locals, no fast-math, no checks, no protection from denormal numbers. Serial or with prange,
whichever is faster.
"""

import functools
import math

import numba

from numadam._bench import peers

from .common import Case, Cases, pair, size, step

SIZES = {"10": 10, "1000": 1000, "10k": 10**4, "100k": 10**5, "1M": 10**6, "10M": 10**7}


def adamw_loop(p, g, m, v, lr, beta1, alpha1, beta2, alpha2, eps, decay):
    """The six lines of Adam with decoupled decay; `decay` is lr times weight_decay."""
    for i in numba.prange(p.size):
        m_i = beta1 * m[i] + alpha1 * g[i]
        v_i = beta2 * v[i] + alpha2 * g[i] * g[i]
        m[i] = m_i
        v[i] = v_i
        p[i] -= lr * m_i / (math.sqrt(v_i) + eps) + decay * p[i]


def options_loop(
    p, g, m, v, average, lr, beta1, alpha1, beta2, alpha2, eps, clip, low, high, alpha
):
    """Adam with a clip by value, bounds and a running average."""
    for i in numba.prange(p.size):
        g_i = min(max(g[i], -clip), clip)
        m_i = beta1 * m[i] + alpha1 * g_i
        v_i = beta2 * v[i] + alpha2 * g_i * g_i
        p_i = min(max(p[i] - lr * m_i / (math.sqrt(v_i) + eps), low), high)
        m[i] = m_i
        v[i] = v_i
        p[i] = p_i
        average[i] += alpha * (p_i - average[i])


OPTIONS = {"clip_value": 0.5, "bounds": (-3.0, 3.0), "ema": 0.999}
#: Title, options of numadam's step, its peer, and the target from 10,000 to a million elements.
KINDS = {
    "adam": ("Adam", {}, peers.numba_adam, 1.05),
    "adamw": (
        "AdamW",
        {"rule": "AdamW"},
        lambda n: peers.numba_loop(adamw_loop, n, 4, 1e-3 * 0.01),
        1.05,
    ),
    "options": (
        "Adam with clip_value, bounds and ema",
        OPTIONS,
        lambda n: peers.numba_loop(options_loop, n, 5, 0.5, -3.0, 3.0, 1 - 0.999),
        1.1,
    ),
}


def _case(title, text, options, peer, target):
    n = SIZES[text]
    if n < 10_000:
        target = 1.4
    ours = step(n, **options)
    return Case(
        f"a step of {title} of {text} / Numba, by hand",
        target,
        pair(ours, functools.partial(peer, size(n))),
    )


class ByHand(Cases):
    cases = {
        f"hand-{name}-{text}": _case(title, text, options, peer, target)
        for name, (title, options, peer, target) in KINDS.items()
        for text in SIZES
    }
    track_ratio = Cases.value

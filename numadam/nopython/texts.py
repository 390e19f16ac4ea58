"""Texts that the docstrings of the compiled functions share."""

from __future__ import annotations

#: By placeholder. `p_and_g`, `moments_of_one` and so on are those of ``NAME_element``.
TEXTS = {
    "p": """\
p : array
    Parameters, float32 or float64, any shape and layout; modified in place.""",
    "g": """\
g : array
    Gradient, of the shape and dtype of `p`; not modified.""",
    "moments": """\
m, v : array
    First and second moment, zeros before the first step; modified in place.""",
    "t": """\
t : int
    Number of this step: 1 at the first.""",
    "lr": """\
lr : float, default {default}
    Learning rate.""",
    "beta1": """\
beta1 : float, default {default}
    Decay of the first moment, in [0, 1).""",
    "beta2": """\
beta2 : float, default {default}
    Decay of the second moment, in [0, 1).""",
    "eps": """\
eps : float, default {default}
    Added to the root, in units of the gradient.""",
    "eps_root": """\
eps_root : float, default {default}
    Added under the root, in units of the gradient squared.""",
    "weight_decay": """\
weight_decay : float, default {default}
    Share of `p` that each step subtracts, times lr.""",
    "errors": """\
ValueError
    For arrays of different shapes and for t below 1. Different dtypes are a compile error.
    A CUDA kernel shows no such error: its thread ends.""",
    "p_and_g": """\
p, g : float32 or float64
    Parameter and gradient. The computation is in the type of `p`.""",
    "moments_of_one": """\
m, v : float
    State of the element.""",
    "scalars": """\
tuple of float64
    The same for all elements, which round them to their dtype.""",
}

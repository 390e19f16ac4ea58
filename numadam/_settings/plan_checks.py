"""Options that do not fit the dtype of the parameters, or each other, are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numadam._core.plan import Plan


def check_plan(plan: Plan, options: Mapping[str, Any]) -> None:
    """Refuse options that do not fit the dtype of the parameters, or each other."""
    problem = ""
    if plan.state_dtype.itemsize > plan.real.itemsize:
        problem = (
            f"state_dtype: {plan.state_dtype} holds more digits than the arithmetic, which is "
            f"{plan.real} for {plan.dtype} parameters; leave it out."
        )
    elif plan.numbers == 2 and plan.state_dtype.itemsize == 2:
        problem = (
            f"state_dtype: there are no complex numbers of {plan.state_dtype} parts for the state "
            f"of {plan.dtype} parameters; leave it out."
        )
    elif plan.state_dtype.name == "float16":
        problem = (
            "state_dtype: squares of gradients below 2e-4 are 0 in float16, and steps then too "
            "long without end; use 'bfloat16'."
        )
    elif plan.master and plan.dtype.itemsize != 2:
        problem = (
            f"master: is for float16 and bfloat16 parameters, these are {plan.dtype}; leave it out."
        )
    elif plan.modulus and plan.rule.modulus(options) is None:
        problem = (
            f"complex_form: {plan.rule.name} with these options uses the gradient otherwise than "
            "by its square, so complex numbers cannot be taken whole; use 'parts'."
        )
    elif options["sparse"] == "lazy" and plan.bounds and plan.norm:
        problem = (
            "bounds: with sparse='lazy' the norm would need them row by row; use sparse='dense', "
            "or leave out clip_norm, clip_array_norm and nonfinite."
        )
    elif options["sparse"] == "lazy" and plan.owned:
        problem = (
            "owned: with sparse='lazy' the norm would need the mask row by row; use "
            "sparse='dense', or leave out owned."
        )
    if problem:
        raise ValueError(problem)

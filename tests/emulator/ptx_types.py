"""The types of PTX, and what C calls them."""

from __future__ import annotations

import re


class PtxError(Exception):
    """Text that the translator does not understand; the message says which."""


#: Bytes of the fundamental types.
SIZES = {f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (8, 16, 32, 64)}
SIZES |= {"pred": 1, "f16": 2, "bf16": 2, "f32": 4, "f64": 8}

#: Half precision is its bits, until an instruction reads it as a float.
C_TYPES = {name: f"{'int' if name[0] == 's' else 'uint'}{8 * SIZES[name]}_t" for name in SIZES}
C_TYPES |= {"f32": "float", "f64": "double"}


def identifier(prefix: str, name: str) -> str:
    """A C identifier for a name of PTX, which may have $ and %, and may be a word of C."""
    return prefix + re.sub(r"[^\w$]", "_", name.lstrip("%"))


def unsigned(type_: str) -> str:
    """The unsigned integer type of the same size."""
    return f"u{8 * SIZES[type_]}"

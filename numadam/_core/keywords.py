"""Keywords for signatures: here what Python needs, in the stub the types and texts for editors.

The stub has those of update functions, `minimize` and `minimize_many` besides. A build writes it,
from the options and the docstrings of the classes.
"""

from __future__ import annotations

from typing import TypedDict

from numadam._core.options import SharedOptions

Shared = TypedDict("Shared", SharedOptions.__annotations__, total=False)
#: For a rule that declares `weight_decay` itself.
SharedButDecay = TypedDict(
    "SharedButDecay",
    {name: kind for name, kind in Shared.__annotations__.items() if name != "weight_decay"},
    total=False,
)


class SharedAttributes:
    """Options that all rules share, as attributes of an optimiser; `with_options` makes them."""

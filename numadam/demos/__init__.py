"""Demonstrations that ``python -m numadam demo`` runs; what they need is the extra ``demo``.

A demo is a module of its name, with ``add_arguments(parser)`` for its own options, ``EXAMPLES``
for the end of its help, and ``main(**options)``. Here stands only what the list of them shows.
"""

from numadam._version import install_command

#: Name of each module, and what the help says of it.
DEMOS = {
    "mlp": "a small network learns handwritten digits",
    "decays": "65,536 exponential decays fitted at once, by a compiled objective",
}


class MissingExtra(ImportError):
    """A package of the extra ``demo`` is not installed."""

    def __init__(self, package: str | None) -> None:
        super().__init__(
            f"The demo needs {package}, which is not installed: {install_command('demo')}"
        )

"""Demonstrations that ``python -m numadam demo`` runs; what they need is the extra ``demo``."""


class MissingExtra(ImportError):
    """A package of the extra ``demo`` is not installed."""

    def __init__(self, package: str | None) -> None:
        super().__init__(
            f'The demo needs {package}, which is not installed: pip install "numadam[demo]"'
        )

"""Version of the package; no other module of it is imported here."""

__version__ = "0.1.0"

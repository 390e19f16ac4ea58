"""The back end for CuPy arrays."""

"""The back end for NumPy arrays."""

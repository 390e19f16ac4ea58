"""Exact forward derivatives of plain functions that Numba compiles: dual numbers as its types."""

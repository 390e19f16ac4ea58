"""The loop of a minimisation whose objective is compiled by Numba."""

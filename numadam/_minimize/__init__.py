"""Minimisation: the SciPy-shaped loop, the compiled loop, many problems at once."""

"""Minimisation by several processes: each has its block of x, and all decide alike."""

"""The loop of a minimisation whose objective is Python."""

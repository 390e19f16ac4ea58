"""Options of an optimiser, resolved into a plan, groups and numbers."""

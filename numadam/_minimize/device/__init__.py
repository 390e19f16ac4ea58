"""The loop of many minimisations on a GPU."""

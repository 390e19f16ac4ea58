"""Checkpoints: files that a run goes on from. No pickle, no code."""

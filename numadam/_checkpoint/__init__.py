"""Checkpoints: files that survive."""

"""The demo that ``python -m numadam demo`` runs, and its data."""

<<<<<<< HEAD
"""Checkpoints: files that survive."""
=======
"""Checkpoints: files that a run goes on from. No pickle, no code."""
>>>>>>> i16-k6

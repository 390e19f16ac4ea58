"""AdamW as its paper writes it: Adam's reference takes the decay."""

from .adam import steps as steps

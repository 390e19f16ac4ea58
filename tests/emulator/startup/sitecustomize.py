"""Starts the emulator in a Python process, where EMU=1 (`tests.emulator.environment`)."""

import os

if os.environ.get("EMU") == "1":
    from tests import emulator

    emulator.start()

"""The command line of campaigns that kill processes while they write files."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def run(text: str | None, campaign: Callable[..., object], **numbers: int) -> None:
    """Print what ``campaign(folder, **numbers)`` returns, and its time; options change numbers."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    for name, number in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--folder", type=Path, help="where to write; default: temporary files")
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory(dir=given.pop("folder")) as folder:
        begin = time.perf_counter()
        print(campaign(Path(folder), **given))
        print(f"{time.perf_counter() - begin:.0f} s")

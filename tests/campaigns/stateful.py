"""Any calls of an optimiser in any order, for as long as one likes: `tests/faults/stateful.py`.

    python -m tests.campaigns.stateful --seed 1 --minutes 10

A failure is shrunk to the shortest calls that show it, and printed with its seed.
"""

from __future__ import annotations

import argparse
import time

from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.stateful import AnyCalls

EXAMPLES, STEPS = 200, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    chosen = parser.parse_args()
    number, end = chosen.seed, time.monotonic() + 60 * chosen.minutes
    how = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, database=None)
    while time.monotonic() < end:
        print(f"seed {number}: {EXAMPLES} runs of up to {STEPS} calls", flush=True)
        run_state_machine_as_test(seed(number)(AnyCalls), settings=how)
        number += 1
    print(f"{(number - chosen.seed) * EXAMPLES} runs, nothing found")


if __name__ == "__main__":
    main()

"""``python -m numadam.bench`` is ``python -m numadam bench``."""

import argparse
import sys

from numadam.bench import add_arguments, run

if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m numadam.bench", description=__doc__)
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))

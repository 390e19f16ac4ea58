"""``python -m numadam.bench`` is ``python -m numadam bench``."""

import argparse
import sys

from numadam.bench import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m numadam.bench", description=__doc__)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))

"""``python -m numadam.bench`` is ``python -m numadam bench``."""

import argparse
import sys

from numadam._program import run


def _main() -> int:
    from numadam import bench

    parser = argparse.ArgumentParser(prog="python -m numadam.bench", description=__doc__)
    bench.add_arguments(parser)
    return bench.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(run(_main))

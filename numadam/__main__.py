"""``python -m numadam``."""

import sys

from numadam._program import run


def _main() -> int:
    from numadam._cli import main  # Ctrl-C in these milliseconds is in `run`

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run(_main, "python -m numadam"))

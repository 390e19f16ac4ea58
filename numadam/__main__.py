"""``python -m numadam``."""

import sys

from numadam.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m numadam``."""

import sys

from numadam._cli import main

if __name__ == "__main__":
    sys.exit(main())

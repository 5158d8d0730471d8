"""``python -m cnf``."""

import sys

from cnf import daemon

if __name__ == "__main__":
    sys.exit(daemon.main())

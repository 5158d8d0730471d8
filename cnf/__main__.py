"""``python -m cnf``."""

import sys

from cnf import daemon

if __name__ == "__main__":
    # CNI calls take turns with threads that decode what the API says: the default of 5 ms is longer than a whole ADD.
    sys.setswitchinterval(0.0005)
    sys.exit(daemon.main())

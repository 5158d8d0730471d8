"""``python -m cnf.relay``: cnf on the hub."""

import sys

from cnf.relay import relay

if __name__ == "__main__":
    sys.exit(relay.main())

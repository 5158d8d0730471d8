"""What runs in a pod of crossdns, ``python -m crossdns``, with the API at a URL: ``crossdns_pod.py URL``."""

from __future__ import annotations

import functools
import sys

from crossdns import __main__ as crossdns
from fleetboard.kube import client


def main(url: str) -> int:
    """Run until a signal."""
    here = functools.partial(client.Client.from_token, url, ca_pem=b"", token=lambda: "t")
    client.Client.in_cluster = here  # type: ignore[method-assign]
    return crossdns.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

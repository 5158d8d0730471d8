"""An answering process: ``python -m crossdns.server.worker``, started by ``crossdns.server.workers`` with its sockets.

Invariant: it lives exactly as long as the feed. The threads that watch Kubernetes are in another process, since a
thread that decodes JSON holds the interpreter for tens of milliseconds.
"""

from __future__ import annotations

import argparse
import functools
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from crossdns.server import counters, feed, tcp, udp
from crossdns.server.answerer import Answerer
from crossdns.zone import encode
from fleetboard.model import names
from fleetboard.runtime import logs

log = logging.getLogger(__name__)


def main() -> int:
    """Serve the sockets given by descriptor until the feed ends."""
    args = _parse_args()
    logs.configure("crossdns-worker", args.log_level)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Every process of a group gets both signals; the watching process ends this one by closing the feed.
        signal.signal(number, signal.SIG_IGN)
    # The thread that applies changes must yield to the one that answers sooner than the default of 5 ms.
    sys.setswitchinterval(0.0005)
    sockets = [socket.socket(fileno=fd) for fd in args.sockets]
    counts = [counters.Board(args.counters, args.slots).slot(args.first_slot + n) for n in range(len(sockets))]
    apexes = [encode.name(zone_name) for zone_name in names.ZONES]
    # TCP's sockets share one loop, UDP's have a thread and an answerer each.
    answerers = [Answerer(apexes) for _ in (sockets[:1] if args.protocol == "tcp" else sockets)]
    if args.protocol == "tcp":
        _start(functools.partial(tcp.TcpServer(answerers[0], counts[0]).serve, sockets))
    else:
        for sock, answerer, mine in zip(sockets, answerers, counts, strict=True):
            _start(functools.partial(udp.serve, sock, answerer, mine))
    _follow(socket.socket(fileno=args.feed), answerers, counts)
    return 0


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="crossdns.server.worker")
    parser.add_argument("--protocol", choices=("udp", "tcp"), required=True)
    parser.add_argument("--sockets", type=lambda text: [int(fd) for fd in text.split(",")], required=True)
    for name in ("--feed", "--counters", "--slots", "--first-slot"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--log-level", default="info")
    return parser.parse_args()


def _follow(connection: socket.socket, answerers: list[Answerer], counts: list[memoryview]) -> None:
    """Apply the feed; the first answerer's zone is shared by the others."""
    replica = feed.Replica(answerers[0])
    for generation in feed.receive(connection, replica):
        for answerer in answerers:
            answerer.zone = answerers[0].zone
        for slot in counts:
            slot[counters.GENERATION] = generation
        # The zone is permanent: while the collector skips it, a collection takes microseconds.
        gc.freeze()


def _start(serve: Callable[[], None]) -> None:
    threading.Thread(target=_or_die, args=(serve,), name="answers", daemon=True).start()


def _or_die(serve: Callable[[], None]) -> None:
    """End the process when the loop ends: a process that only follows the feed would look healthy."""
    try:
        serve()
    except BaseException:
        log.exception("an answering process ended unexpectedly")
    os._exit(1)


if __name__ == "__main__":
    # A normal exit would wait for the threads, which never end.
    os._exit(main())

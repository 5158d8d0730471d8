"""Ask one server for many records over TCP and print what it says: run inside a node's network by test_scale.

Reads ``name type`` lines, prints one JSON object: ``name type`` to the record's contents, or to the rcode without any.
"""

from __future__ import annotations

import json
import socket
import struct
import sys

import dnslib


def receive(stream: socket.socket, count: int) -> bytes:
    """Read exactly ``count`` bytes."""
    got = b""
    while len(got) < count:
        part = stream.recv(count - len(got))
        if not part:
            raise SystemExit("the server closed the connection")
        got += part
    return got


def main(server: str, port: int) -> None:
    """Ask."""
    found = {}
    with socket.create_connection((server, port), timeout=10) as stream:
        for line in sys.stdin:
            name, kind = line.split()
            message = dnslib.DNSRecord.question(name, kind).pack()
            stream.sendall(struct.pack("!H", len(message)) + message)
            (length,) = struct.unpack("!H", receive(stream, 2))
            reply = dnslib.DNSRecord.parse(receive(stream, length))
            records = sorted(str(record.rdata).rstrip(".") for record in reply.rr)
            found[f"{name} {kind}"] = records or dnslib.RCODE[reply.header.rcode]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Asks crossdns for the ports of a name, as any client does."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import dnslib


def find_ports(server: tuple[str, int], name: str, *, timeout_s: float = 1.0) -> Sequence[int]:
    """Return the ports of a name's SRV records; empty when it has none or no answer arrives."""
    question = dnslib.DNSRecord.question(name, "SRV")
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(server)
            sock.send(question.pack())
            reply = dnslib.DNSRecord.parse(sock.recv(65535))
    except (OSError, dnslib.DNSError):
        return ()
    if reply.header.id != question.header.id:
        return ()
    return tuple(record.rdata.port for record in reply.rr if record.rtype == dnslib.QTYPE.SRV)

"""SCTP packets for raw sockets (RFC 9260): a kernel without SCTP sockets tracks and translates SCTP all the same."""

from __future__ import annotations

import dataclasses
import functools
import selectors
import socket
import struct

import vip_topology as topology

PROTOCOL = 132
DATA, INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK = 0, 1, 2, 10, 11

CLIENT_TAG, SERVER_TAG = 0x11111111, 0x22222222
PAYLOAD = bytes((0, 0, 0, 1, *bytes(8))) + b"ping"
"""Body of DATA: number, stream, its number, protocol, and what is sent."""

_HEADER = struct.Struct("!HHI")
_INIT = struct.Struct("!IIHHI")


@dataclasses.dataclass(frozen=True)
class Packet:
    """One packet with one chunk."""

    source: str
    source_port: int
    port: int
    tag: int
    chunk: int
    body: bytes = b""

    def encode(self) -> bytes:
        chunk = struct.pack("!BBH", self.chunk, 3 if self.chunk == DATA else 0, 4 + len(self.body)) + self.body
        header = _HEADER.pack(self.source_port, self.port, self.tag)
        return header + struct.pack("<I", crc32c(header + bytes(4) + chunk)) + chunk

    @classmethod
    def parse(cls, packet: bytes) -> Packet:
        """Parse an IPv4 packet, whose checksum has to be right."""
        content = packet[(packet[0] & 15) * 4 :]
        assert struct.unpack_from("<I", content, 8)[0] == crc32c(content[:8] + bytes(4) + content[12:])
        kind, _, length = struct.unpack_from("!BBH", content, 12)
        source_port, port, tag = _HEADER.unpack_from(content)
        return cls(socket.inet_ntoa(packet[12:16]), source_port, port, tag, kind, content[16 : 12 + length])


def init(tag: int) -> bytes:
    """Body of INIT and INIT ACK: the tag that the other side has to use."""
    return _INIT.pack(tag, 65536, 1, 1, 1)


def crc32c(content: bytes) -> int:
    value = 0xFFFFFFFF
    for octet in content:
        value = (value >> 8) ^ _table()[(value ^ octet) & 0xFF]
    return value ^ 0xFFFFFFFF


@functools.cache
def _table() -> list[int]:
    found = []
    for octet in range(256):
        value = octet
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return found


class End:
    """A raw socket that speaks from one address and port."""

    def __init__(self, namespace: str, address: str, port: int, *, timeout_s: float = 10) -> None:
        with topology.inside(namespace):
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL)
        self.socket.settimeout(timeout_s)
        self.socket.bind((address, 0))
        self.address, self.port = address, port

    def __enter__(self) -> End:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def connect(self, target: str) -> None:
        """Receive errors about what is sent to ``target``."""
        self.socket.connect((target, 0))

    def send(self, target: str, port: int, chunk: int, body: bytes = b"", *, tag: int = 0) -> None:
        self.socket.sendto(Packet(self.address, self.port, port, tag, chunk, body).encode(), (target, 0))

    def receive(self) -> Packet:
        """Return the next packet to this end's port."""
        while True:
            found = Packet.parse(self.socket.recv(2000))
            if found.port == self.port:
                return found


def receive_first(servers: dict[str, End]) -> tuple[str, Packet]:
    """Return the first server that receives a packet, and the packet."""
    with selectors.DefaultSelector() as waiting:  # select itself knows descriptors below 1024 alone
        for server, end in servers.items():
            waiting.register(end.socket, selectors.EVENT_READ, server)
        ready = waiting.select(timeout=10)
    assert ready, "no server received anything"
    receiver: str = ready[0][0].data
    return receiver, servers[receiver].receive()


def associate(client: End, servers: dict[str, End], vip: str, port: int) -> str:
    """Open an association through a virtual address, send data both ways, and return who answered."""
    client.send(vip, port, INIT, init(CLIENT_TAG))
    server, first = receive_first(servers)
    end = servers[server]
    assert (first.chunk, first.source, first.source_port) == (INIT, client.address, client.port)
    for chunk, answer, body in (
        (None, INIT_ACK, init(SERVER_TAG)),
        (COOKIE_ECHO, COOKIE_ACK, b""),
        (DATA, DATA, PAYLOAD),
    ):
        if chunk is not None:
            client.send(vip, port, chunk, PAYLOAD, tag=SERVER_TAG)
            assert end.receive().chunk == chunk
        end.send(client.address, client.port, answer, body, tag=CLIENT_TAG)
        found = client.receive()
        assert (found.source, found.source_port, found.chunk) == (vip, port, answer)
    return server

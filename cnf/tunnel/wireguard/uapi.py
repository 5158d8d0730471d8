"""WireGuard in user space: wireguard-go's control protocol over its unix socket.

https://www.wireguard.com/xplatform/#configuration-protocol. Invariant: all changes of one sync are one ``set``
operation, so that no packet meets half of them.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cnf.tunnel import errors
from cnf.tunnel.plan import endpoints
from cnf.tunnel.wireguard import changes, key

SOCKETS = Path("/var/run/wireguard")
"""A constant of wireguard-go."""
TIMEOUT_S = 5.0


def socket_path(name: str) -> Path:
    """Return where wireguard-go listens for link ``name``."""
    return SOCKETS / f"{name}.sock"


def answers(name: str) -> bool:
    """Return whether a wireguard-go listens for link ``name``."""
    try:
        with _connect(name):
            return True
    except errors.BackendError:
        return False


class UserspaceWireGuard:
    """One wireguard-go device."""

    kind = "userspace"

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self) -> changes.ActualDevice:
        """Return the device as it is.

        Raises:
            BackendError: wireguard-go is away.
        """
        return parse(_exchange(self.name, "get=1\n\n"))

    def apply(self, difference: changes.DeviceChanges) -> None:
        """Write the changes.

        Raises:
            BackendError: refused, or wireguard-go is away.
        """
        _exchange(self.name, render(difference))


def render(difference: changes.DeviceChanges) -> str:
    """Return the ``set`` operation of the changes."""
    return "\n".join(["set=1", *_lines(difference), "", ""])


def _lines(difference: changes.DeviceChanges) -> Iterator[str]:
    if difference.private_key is not None:
        yield f"private_key={to_hex(difference.private_key)}"
    if difference.port is not None:
        yield f"listen_port={difference.port}"
    for update in difference.updates:
        yield f"public_key={to_hex(update.public_key)}"
        if update.endpoint is not None:
            yield f"endpoint={update.endpoint}"
        if update.keepalive_s is not None:
            yield f"persistent_keepalive_interval={update.keepalive_s}"
        yield from (f"allowed_ip={network}" for network in sorted(update.add, key=str))
    if difference.drop:
        # They move to a peer that exists for these lines only: see ``changes``.
        yield f"public_key={to_hex(key.generate().public)}"
        yield from (f"allowed_ip={network}" for network in sorted(difference.drop, key=str))
        yield "remove=true"
    for public_key in difference.remove:
        yield f"public_key={to_hex(public_key)}"
        yield "remove=true"


def parse(lines: list[tuple[str, str]]) -> changes.ActualDevice:
    """Parse the answer to ``get``.

    Raises:
        BackendError: it is malformed.
    """
    private_key, port, peers = "", 0, dict[str, _PeerLines]()
    peer: _PeerLines | None = None
    try:
        for field, value in lines:
            if field == "public_key":
                peer = peers.setdefault(_to_base64(value), _PeerLines())
            elif peer is not None:
                peer.add(field, value)
            elif field == "private_key":
                private_key = _to_base64(value)
            elif field == "listen_port":
                port = int(value)
    except ValueError as err:
        raise errors.BackendError(f"wireguard-go gave a malformed answer: {err}") from err
    return changes.ActualDevice(private_key, port, {public_key: lines.value() for public_key, lines in peers.items()})


class _PeerLines:
    """The lines of one peer, gathered."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}
        self._allowed: list[str] = []

    def add(self, field: str, value: str) -> None:
        if field == "allowed_ip":
            self._allowed.append(value)
        else:
            self._fields[field] = value

    def value(self) -> changes.ActualPeer:
        endpoint = self._fields.get("endpoint")
        return changes.ActualPeer(
            endpoint=endpoints.parse_address(endpoint) if endpoint else None,
            allowed=frozenset(ipaddress.ip_network(text) for text in self._allowed),
            keepalive_s=self._number("persistent_keepalive_interval"),
            handshake_at=self._number("last_handshake_time_sec") + self._number("last_handshake_time_nsec") / 1e9,
            rx_bytes=self._number("rx_bytes"),
            tx_bytes=self._number("tx_bytes"),
        )

    def _number(self, field: str) -> int:
        return int(self._fields.get(field, "0"))


def _connect(name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(str(socket_path(name)))
    except OSError as err:
        connection.close()
        raise errors.BackendError(f"wireguard-go for {name} does not answer: {err}", errno=err.errno or 0) from err
    return connection


def _exchange(name: str, operation: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    with _connect(name) as connection:
        try:
            connection.sendall(operation.encode())
            with connection.makefile(encoding="ascii") as answer:
                for line in answer:
                    field, _, value = line.rstrip("\n").partition("=")
                    if field == "errno":
                        return _check(name, int(value), lines)
                    if field:
                        lines.append((field, value))
        except (OSError, ValueError) as err:
            raise errors.BackendError(f"wireguard-go for {name} went away: {err}") from err
    raise errors.BackendError(f"wireguard-go for {name} closed the connection without an answer")


def _check(name: str, status: int, lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    if status:
        raise errors.BackendError(f"wireguard-go for {name} refused: {os.strerror(-status)}", errno=-status)
    return lines


def to_hex(text: str) -> str:
    """Spell a base64 key as the protocol does."""
    return base64.b64decode(text).hex()


def _to_base64(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()

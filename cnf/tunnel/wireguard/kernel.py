"""The kernel's WireGuard, by generic netlink.

pyroute2 instead of ``wg set``: until 2025, ``allowed-ips`` of ``wg set`` replaced all prefixes of a peer, with the loss
that ``changes`` explains. A message of pyroute2 without ``replace_allowed_ips`` only adds prefixes. Invariant: the
state after each message is valid by itself, because pyroute2 sends one message for each peer.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import pyroute2
from pyroute2.netlink import exceptions

from cnf.tunnel import errors
from cnf.tunnel.plan import endpoints
from cnf.tunnel.wireguard import changes, key
from fleetboard.model.addresses import Network

PREFIXES_A_MESSAGE = 500
"""A prefix takes up to 44 bytes and a netlink attribute holds 64 KiB."""


class KernelWireGuard:
    """One WireGuard device of the kernel."""

    kind = "kernel"

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self) -> changes.ActualDevice:
        """Return the device as it is.

        Raises:
            BackendError: the device is away.
        """
        try:
            with pyroute2.WireGuard() as wireguard:
                return parse(list(wireguard.info(self.name)))
        except (exceptions.NetlinkError, OSError) as err:
            raise _refused(self.name, err) from err

    def apply(self, difference: changes.DeviceChanges) -> None:
        """Write the changes.

        Raises:
            BackendError: refused, or the device is away.
        """
        try:
            with pyroute2.WireGuard() as wireguard:
                for message in messages(difference):
                    wireguard.set(self.name, **message)
        except (exceptions.NetlinkError, OSError) as err:
            raise _refused(self.name, err) from err


def messages(difference: changes.DeviceChanges) -> Iterator[dict[str, Any]]:
    """Return the arguments of each ``WireGuard.set`` call that the changes need, in order."""
    device: dict[str, Any] = {}
    if difference.private_key is not None:
        device["private_key"] = difference.private_key
    if difference.port is not None:
        device["listen_port"] = difference.port
    if device:
        yield device
    for update in difference.updates:
        yield from _update(update)
    if difference.drop:
        # They move to a peer that exists for these messages only: see ``changes``.
        passing = key.generate().public
        for chunk in _chunks(difference.drop):
            yield {"peer": {"public_key": passing, "allowed_ips": chunk}}
        yield {"peer": {"public_key": passing, "remove": True}}
    for public_key in difference.remove:
        yield {"peer": {"public_key": public_key, "remove": True}}


def _update(update: changes.PeerUpdate) -> Iterator[dict[str, Any]]:
    peer: dict[str, Any] = {"public_key": update.public_key}
    if update.endpoint is not None:
        peer |= {"endpoint_addr": str(update.endpoint.address), "endpoint_port": update.endpoint.port}
    if update.keepalive_s is not None:
        peer["persistent_keepalive"] = update.keepalive_s
    first, *rest = list(_chunks(update.add)) or [[]]
    if first:
        peer["allowed_ips"] = first
    yield {"peer": peer}
    for chunk in rest:
        yield {"peer": {"public_key": update.public_key, "allowed_ips": chunk}}


def _chunks(networks: Iterable[Network]) -> Iterator[list[str]]:
    texts = sorted(map(str, networks))
    for start in range(0, len(texts), PREFIXES_A_MESSAGE):
        yield texts[start : start + PREFIXES_A_MESSAGE]


def parse(dump: Iterable[Any]) -> changes.ActualDevice:
    """Parse the dump of a device, in which a peer with many prefixes has several parts."""
    private_key, port, peers = "", 0, dict[str, changes.ActualPeer]()
    for message in dump:
        private_key = _text(message.get_attr("WGDEVICE_A_PRIVATE_KEY")) or private_key
        port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or port
        for part in message.get_attr("WGDEVICE_A_PEERS") or ():
            public_key = _text(part.get_attr("WGPEER_A_PUBLIC_KEY"))
            peers[public_key] = _merge(peers.get(public_key), part)
    return changes.ActualDevice(private_key, port, peers)


def _merge(earlier: changes.ActualPeer | None, part: Any) -> changes.ActualPeer:
    allowed = frozenset(_network(entry) for entry in part.get_attr("WGPEER_A_ALLOWEDIPS") or ())
    if earlier is not None:
        return dataclasses.replace(earlier, allowed=earlier.allowed | allowed)
    endpoint = part.get_attr("WGPEER_A_ENDPOINT")
    handshake = part.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {"tv_sec": 0, "tv_nsec": 0}
    return changes.ActualPeer(
        endpoint=endpoints.SocketAddress(ipaddress.ip_address(endpoint["addr"]), endpoint["port"])
        if endpoint
        else None,
        allowed=allowed,
        keepalive_s=part.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        handshake_at=handshake["tv_sec"] + handshake["tv_nsec"] / 1e9,
        rx_bytes=part.get_attr("WGPEER_A_RX_BYTES") or 0,
        tx_bytes=part.get_attr("WGPEER_A_TX_BYTES") or 0,
    )


def _network(entry: Any) -> Network:
    family = entry.get_attr("WGALLOWEDIP_A_FAMILY")
    packed = bytes.fromhex(entry.get_attr("WGALLOWEDIP_A_IPADDR").replace(":", ""))
    text = socket.inet_ntop(family, packed)
    network: Network = ipaddress.ip_network(f"{text}/{entry.get_attr('WGALLOWEDIP_A_CIDR_MASK')}")
    return network


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _refused(name: str, err: exceptions.NetlinkError | OSError) -> errors.BackendError:
    code = err.code if isinstance(err, exceptions.NetlinkError) else err.errno or 0
    return errors.BackendError(f"WireGuard of the kernel refused a request for {name}: {err}", errno=code)

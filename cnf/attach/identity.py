"""Names, MACs and indexes of an attachment's two ends.

Invariant: all of them follow from the container id, the interface's name and the address. So a pair that is created
again is the same pair for the pod: its neighbours stay valid, and sockets that are bound to the device go on.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Sequence

from fleetboard.model import names
from fleetboard.model.addresses import Address

POD_INDEX = 10112
"""Index of the pod's end: far above the kernel's own, and a pod has only one attachment."""

_NEAR_INDEX = 0x1000000
_ALIAS = re.compile(r"fleet:(?P<container>[^ :]+):(?P<interface>[^ :]+) (?P<addresses>[0-9a-f.:,]+) ?(?P<uid>[^ ]*)")
_ALIAS_LIMIT = 255


def _digest(container_id: str, interface: str, part: str) -> bytes:
    return hashlib.sha256(f"{part}{container_id}/{interface}".encode()).digest()


def veth_name(container_id: str, interface: str) -> str:
    """Name the end in cnf's namespace."""
    return names.VETH_PREFIX + _digest(container_id, interface, "").hex()[:11]


def pod_mac(container_id: str, interface: str) -> str:
    """Return the MAC of the pod's end, unless the call requests another."""
    return _mac(_digest(container_id, interface, "pod "))


def gateway_mac(container_id: str, interface: str) -> str:
    """Return the MAC of cnf's end."""
    return _mac(_digest(container_id, interface, "gateway "))


def _mac(digest: bytes) -> str:
    # Locally administered, not multicast.
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")


def near_index(address: Address) -> int:
    """Return the index of cnf's end: one for each address, far above the kernel's own."""
    return _NEAR_INDEX + (int(address) & 0xFFFFFF)


def alias(container_id: str, interface: str, addresses: Sequence[Address], pod_uid: str) -> str:
    """Return the tag of both ends, from which a lost journal is rebuilt."""
    head = f"fleet:{container_id}:{interface}"[:_ALIAS_LIMIT]
    whole = f"{head} {','.join(str(address) for address in addresses)} {pod_uid}".rstrip()
    return whole if len(whole) <= _ALIAS_LIMIT else head


def parse_alias(text: str) -> tuple[str, str, tuple[Address, ...], str] | None:
    """Return container id, interface, addresses and pod UID of a tag; None when it isn't a whole tag of cnf's."""
    match = _ALIAS.fullmatch(text)
    if match is None:
        return None
    try:
        addresses = tuple(ipaddress.ip_address(part) for part in match["addresses"].split(","))
    except ValueError:
        return None
    return match["container"], match["interface"], addresses, match["uid"]


def is_tag_of(text: str, container_id: str, interface: str) -> bool:
    """Return whether an interface's tag is that of this attachment."""
    return text.partition(" ")[0] == f"fleet:{container_id}:{interface}"[:_ALIAS_LIMIT]


def is_ours(text: str) -> bool:
    """Return whether an interface's tag is one of cnf's."""
    return text.startswith("fleet:")

"""Permanent neighbours: the links are point to point, so nobody needs to ask who has an address.

Putting a neighbour replaces an existing one of the same address.
"""

from __future__ import annotations

import struct

from cnf.netlink import addresses, links, wire
from cnf.netlink.wire import Message
from fleetboard.model.addresses import Address

_NEWNEIGH = 28
_INFO = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, index, state, flags, type."""
_DST, _LLADDR = 1, 2
_PERMANENT = 0x80


def put(index: int, address: Address, mac: str) -> Message:
    """Return the message that sets the permanent MAC of ``address`` on an interface."""
    body = (
        _INFO.pack(addresses.FAMILY[address.version], index, _PERMANENT, 0, 0)
        + wire.attribute(_DST, address.packed)
        + wire.attribute(_LLADDR, links.pack_mac(mac))
    )
    return Message(_NEWNEIGH, wire.PUT, body, f"put neighbour {address} on interface {index}")

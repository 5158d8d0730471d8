"""What the CNI service is built from, and whom it calls back."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

from cnf.attach.node_network import demand

_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """Return the number of the machine's boot; namespace cookies of another boot mean nothing."""
    return _BOOT_ID.read_text().strip()


def _ignore(verb: str, code: int, seconds: float) -> None:
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class CniSettings:
    """Values of one node that never change while its CNI service runs."""

    state_dir: pathlib.Path
    """Holds journal, network and lock of this cnf and its successors."""
    netns_dir: pathlib.Path
    """The host's /run/netns."""
    node: str = ""
    """Marks the files in ``state_dir``: a copy on another node is not used."""
    boot_id: str = dataclasses.field(default_factory=read_boot_id)
    address_timeout_s: float = 10.0
    """Seconds that an ADD waits for a free address before it is refused."""
    idle_s: float = demand.IDLE_S
    """How long a block is empty before the node returns it."""


@dataclasses.dataclass(frozen=True, slots=True)
class CniHooks:
    """Functions that the CNI service calls, from any thread."""

    on_change: Callable[[], None]
    """Attachments, or the count of free addresses, changed."""
    on_call: Callable[[str, int, float], None] = _ignore
    """A call was served: its verb, its CNI error code or 0, and its seconds."""
    why_no_block: Callable[[], str] = str
    """Return why no further block will come, or nothing."""

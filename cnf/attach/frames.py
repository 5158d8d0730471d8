r"""The protocol between the CNI executable and cnf: one request and one answer on each connection.

Request: ``FLEETCNI/1 <length of env> <length of stdin>\n``, then the CNI_ variables as ``KEY=VALUE`` separated by NUL,
then stdin. Answer: ``<exit code> <length of stdout>\n``, then stdout. Lengths are checked before the content is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from cnf.attach import errors
from cnf.netlink.namespace import NetworkNamespace

MAGIC = b"FLEETCNI/1"
MAX_HEAD = 64
MAX_ENV = 1 << 16
MAX_STDIN = 1 << 20


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One CNI call as it was received.

    ``namespace`` is the one that the caller opened at CNI_NETNS; the server closes it. ``cancelled`` says whether the
    caller hung up and will not get the answer. ``issued_at`` (wall clock) is the time of a call that was spooled.
    """

    env: Mapping[str, str]
    stdin: bytes
    namespace: NetworkNamespace | None = None
    cancelled: Callable[[], bool] = _never
    issued_at: float = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """The answer to one CNI call; ``undo`` reverts the call when its answer can't be delivered."""

    code: int
    stdout: bytes
    undo: Callable[[], None] = _nothing

    def encode(self) -> bytes:
        """Return the bytes for the socket."""
        return f"{self.code} {len(self.stdout)}\n".encode() + self.stdout


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """The first line of a request."""

    env_length: int
    stdin_length: int

    @property
    def length(self) -> int:
        """Bytes that follow the line."""
        return self.env_length + self.stdin_length


def parse_head(line: bytes) -> Head:
    """Parse a request's first line.

    Raises:
        FrameError: another protocol, or more than any runtime sends.
    """
    parts = line.split(b" ")
    if len(parts) != 3 or parts[0] != MAGIC or not (parts[1].isdigit() and parts[2].isdigit()):
        raise errors.FrameError(f"request begins with {line[:MAX_HEAD]!r}: expected '{MAGIC.decode()} <env> <stdin>'")
    head = Head(int(parts[1]), int(parts[2]))
    if head.env_length > MAX_ENV or head.stdin_length > MAX_STDIN:
        raise errors.FrameError(
            f"request of {head.env_length} bytes of environment and {head.stdin_length} of stdin: "
            f"expected at most {MAX_ENV} and {MAX_STDIN}"
        )
    return head


def parse_env(block: bytes) -> dict[str, str]:
    """Parse the environment. Bytes that aren't UTF-8 become surrogates, and are refused where they matter."""
    pairs = (entry.partition(b"=") for entry in block.split(b"\0") if entry)
    return {_decode(key): _decode(value) for key, _, value in pairs}


def _decode(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def parse_request(frame: bytes) -> Request:
    """Parse a whole frame, as a spooled DEL holds it.

    Raises:
        FrameError: the frame is no request, or is cut off.
    """
    line, newline, rest = frame.partition(b"\n")
    if not newline:
        raise errors.FrameError("request without a first line")
    head = parse_head(line)
    if len(rest) != head.length:
        raise errors.FrameError(f"request of {len(rest)} bytes: its first line announces {head.length}")
    return Request(parse_env(rest[: head.env_length]), rest[head.env_length :])


def render_request(env: Mapping[str, str], stdin: bytes) -> bytes:
    """Return the bytes of a request."""
    block = b"\0".join(f"{key}={value}".encode(errors="surrogateescape") for key, value in env.items())
    return MAGIC + f" {len(block)} {len(stdin)}\n".encode() + block + stdin

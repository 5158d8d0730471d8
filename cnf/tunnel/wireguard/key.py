"""WireGuard's private keys: Curve25519, in base64.

Invariant: a node's private key is on disk, synced, before the public half is published. If a published key were lost,
its owner could never prove itself again.
"""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import x25519

from cnf.tunnel import errors
from cnf.tunnel.plan import public_key

FILE = "tunnel.key"


class PrivateKey:
    """A private key; logs and tracebacks never show its text."""

    __slots__ = ("_raw", "public")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != public_key.LENGTH:
            raise errors.KeyRefusedError(f"private key has {len(raw)} bytes: expected {public_key.LENGTH}")
        self._raw = raw
        private = x25519.X25519PrivateKey.from_private_bytes(raw)
        self.public: str = base64.b64encode(private.public_key().public_bytes_raw()).decode()

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public!r})"

    @property
    def base64(self) -> str:
        """The private half, for WireGuard and for a Secret."""
        return base64.b64encode(self._raw).decode()

    def write(self, path: Path) -> None:
        """Write this key to ``path``, mode 0600, whole or not at all.

        Raises:
            FileExistsError: another process wrote one first.
        """
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"{self.base64}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            # A link, not a rename: of two first starts one wins and the other reads the winner's.
            os.link(fresh, path)
        finally:
            fresh.unlink()
        _sync_folder(path.parent)


def generate() -> PrivateKey:
    """Make a new key."""
    return PrivateKey(x25519.X25519PrivateKey.generate().private_bytes_raw())


def parse(text: str | bytes, *, field: str = "private key") -> PrivateKey:
    """Parse a private key in base64, as a Secret or a file holds it.

    Raises:
        KeyRefusedError: naming ``field``, never the value.
    """
    return PrivateKey(public_key.decode(text, field=field, shown=""))


def ensure(state_dir: Path) -> PrivateKey:
    """Return the node's key from ``state_dir``, where the first call makes it.

    Raises:
        KeyRefusedError: the file holds something else; it is left as it is.
    """
    path = state_dir / FILE
    state_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            generate().write(path)
    return parse(path.read_bytes(), field=str(path))


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Public keys of peers, in the one spelling that texts are compared in: base64 of 32 bytes, padded."""

from __future__ import annotations

import base64
import binascii

from cnf.tunnel import errors

LENGTH = 32


def parse(text: str, *, field: str = "publicKey") -> str:
    """Return a public key in its one canonical spelling.

    Raises:
        KeyRefusedError: naming ``field`` and the value.
    """
    raw = decode(text, field=field, shown=f" {text!r}")
    if not any(raw):
        raise errors.KeyRefusedError(f"{field} {text!r} is all zeroes: expected a Curve25519 public key")
    return base64.b64encode(raw).decode()


def decode(text: str | bytes, *, field: str, shown: str = "") -> bytes:
    """Return the bytes of a public or a private key.

    Raises:
        KeyRefusedError: naming ``field``, and the value as far as ``shown`` holds it.
    """
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as err:
        raise errors.KeyRefusedError(f"{field}{shown} is not base64: expected 32 bytes in base64") from err
    if len(raw) != LENGTH:
        raise errors.KeyRefusedError(f"{field}{shown} has {len(raw)} bytes: expected 32 bytes in base64")
    return raw

"""Reads settings from environment variables.

Invariant: an invalid value raises one error, whose message names the variable, the value and what is expected.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

T = TypeVar("T")


class SettingRefusedError(ValueError):
    """A setting is missing or invalid."""


@overload
def read(name: str, default: str | None = None, *, environ: Mapping[str, str] = ...) -> str: ...


@overload
def read(name: str, default: T | None = None, *, parse: Callable[[str], T], environ: Mapping[str, str] = ...) -> T: ...


def read(
    name: str,
    default: Any = None,
    *,
    parse: Callable[[str], Any] = str,
    environ: Mapping[str, str] = os.environ,
) -> Any:
    """Return the variable's parsed value, or ``default`` (a parsed value) when it is unset or empty.

    ``parse`` refuses a text by a ValueError, whose message says what is expected.

    Raises:
        SettingRefusedError: unset without a default, or refused by ``parse``.
    """
    text = environ.get(name, "").strip()
    if not text:
        if default is None:
            raise SettingRefusedError(f"environment variable {name} is not set and has no default")
        return default
    try:
        return parse(text)
    except ValueError as err:
        expected = _BUILTIN.get(parse) or str(err)
        raise SettingRefusedError(f"environment variable {name}={text[:128]!r}: {expected}") from err


def port(text: str) -> int:
    """Parse a port number."""
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ValueError("expected a port number, 1 to 65535")
    return int(text)


def flag(text: str) -> bool:
    """Parse true or false."""
    known = {"true": True, "false": False}
    if text.lower() not in known:
        raise ValueError("expected true or false")
    return known[text.lower()]


def words(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list, without surrounding blanks and empty entries."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Parse a comma-separated list of CIDRs."""
    try:
        return tuple(ipaddress.ip_network(word) for word in words(text))
    except ValueError as err:
        raise ValueError(f"expected CIDRs such as 10.0.0.0/16, separated by commas: {err}") from err


_BUILTIN: dict[Callable[[str], Any], str] = {int: "expected a whole number", float: "expected a number"}

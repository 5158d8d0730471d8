"""Writes each log record to stderr as one JSON object.

Invariant: no credential is written. Fields named after one are withheld, and text that looks like a bearer token is
replaced.
"""

from __future__ import annotations

import datetime
import logging
import re
import sys
from typing import Any, TextIO

import msgspec

LEVELS = ("debug", "info", "warning", "error")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_FIELD = re.compile(r"token|password|authorization|private_?key|secret", re.IGNORECASE)
# A JWT's header always begins with {" which is eyJ in base64.
_SECRET_TEXT = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|(?<=[Bb]earer )[\w.~+/=-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
)
WITHHELD = "[withheld]"


class JsonFormatter(logging.Formatter):
    """Renders a record with its extra fields.

    An extra field called ``ts``, ``level``, ``component``, ``logger`` or ``msg`` is lost.
    """

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        fields: dict[str, Any] = {
            "ts": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "component": self._component,
            "logger": record.name,
            "msg": _scrub(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in fields:
                fields[name] = WITHHELD if _SECRET_FIELD.search(name) else value
        if record.exc_info:
            fields["exc"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        return _scrub(_encode(fields))


def configure(component: str, level: str = "info", *, stream: TextIO | None = None) -> None:
    """Write all records of ``level`` and above to ``stream`` (stderr) as JSON, replacing the root logger's handlers.

    Call this once, at the start.

    Raises:
        ValueError: no such level.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"log level {level!r}: expected one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(component))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # Its warnings repeat the errors of fleetboard.kube, with whole URLs.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _scrub(text: str) -> str:
    return _SECRET_TEXT.sub(WITHHELD, text)


def _encode(fields: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(fields, enc_hook=str).decode()
    except (TypeError, ValueError, UnicodeError):
        # A log line must not fail, whatever its fields hold: keys that aren't text, lone surrogates.
        plain = {name: value if isinstance(value, int | float) else ascii(value) for name, value in fields.items()}
        return msgspec.json.encode(plain).decode()

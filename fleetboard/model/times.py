"""Times as the API writes them: RFC 3339, UTC, ``Z``.

Invariant: a time that can't be read, or that names no zone, counts as just now. Whatever waits for a time to pass then
waits longer, and nothing is freed or forgotten too early.
"""

from __future__ import annotations

import datetime


def now() -> str:
    """Return the time now in whole seconds, as metav1.Time has it."""
    return render(datetime.datetime.now(datetime.UTC))


def render(moment: datetime.datetime) -> str:
    """Render a time in whole seconds: metav1.Time."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def render_micro(moment: datetime.datetime) -> str:
    """Render a metav1.MicroTime: exactly six fractional digits, which plain ``isoformat`` drops when they are zero."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse(text: str) -> datetime.datetime | None:
    """Parse a time; None when it can't be read or names no zone."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def age(text: str, *, now: datetime.datetime) -> datetime.timedelta:
    """Return how long ago ``text`` was, negative when it is yet to come; what can't be read was just now."""
    moment = parse(text)
    return now - moment if moment is not None else datetime.timedelta()

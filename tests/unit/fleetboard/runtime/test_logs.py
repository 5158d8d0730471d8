"""Log lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from fleetboard.runtime import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    logs.configure("cnf", stream=text)
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_with_its_extra_fields(stream: io.StringIO) -> None:
    logging.getLogger("a.b").info("said %s", "this\nand that", extra={"key": "ns/x", "path": object})
    (line,) = lines(stream)
    assert line["msg"] == "said this\nand that"
    assert (line["level"], line["component"], line["logger"], line["key"]) == ("info", "cnf", "a.b", "ns/x")
    assert line["ts"].endswith("+00:00")
    assert "object" in line["path"]


def test_a_traceback_is_a_field(stream: io.StringIO) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        logging.getLogger("a").exception("failed")
    (line,) = lines(stream)
    assert "KeyError: 'gone'" in line["exc"]


def test_the_level_holds(stream: io.StringIO) -> None:
    logging.getLogger("a").debug("no")
    assert lines(stream) == []


def test_credentials_do_not_get_out(stream: io.StringIO) -> None:
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    log = logging.getLogger("a")
    log.info("token %s", jwt, extra={"token": "x-secret-x", "headers": {"Authorization": "Bearer abcdefghijkl"}})
    try:
        raise ValueError(jwt)
    except ValueError:
        log.exception("failed")
    text = stream.getvalue()
    assert jwt not in text
    assert "x-secret-x" not in text
    assert "abcdefghijkl" not in text
    assert len(lines(stream)) == 2


def test_what_json_cannot_say_is_said_anyhow(stream: io.StringIO) -> None:
    logging.getLogger("a").info("odd", extra={"odd": "\ud800", "map": {(1, 2): b"x"}})
    (line,) = lines(stream)
    assert line["msg"].strip("'") == "odd"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud'"):
        logs.configure("cnf", "loud")

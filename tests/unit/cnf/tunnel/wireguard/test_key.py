from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519

from cnf.tunnel import errors
from cnf.tunnel.wireguard import key


def test_a_node_keeps_its_key(tmp_path: Path) -> None:
    first = key.ensure(tmp_path / "state")
    assert key.ensure(tmp_path / "state").base64 == first.base64
    path = tmp_path / "state" / key.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [key.FILE]


def test_of_two_first_starts_one_wins(tmp_path: Path) -> None:
    winner = key.generate()
    winner.write(tmp_path / key.FILE)
    with pytest.raises(FileExistsError):
        key.generate().write(tmp_path / key.FILE)
    assert key.ensure(tmp_path).public == winner.public


def test_the_public_half_is_that_of_curve25519() -> None:
    raw = bytes(range(32))
    expected = x25519.X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    assert base64.b64decode(key.PrivateKey(raw).public) == expected


def test_a_broken_file_is_named_and_left(tmp_path: Path) -> None:
    (tmp_path / key.FILE).write_text("c2hvcnQ=\n")
    with pytest.raises(errors.KeyRefusedError, match=r"tunnel\.key has 5 bytes: expected 32"):
        key.ensure(tmp_path)
    assert (tmp_path / key.FILE).read_text() == "c2hvcnQ=\n"


def test_an_error_about_a_private_key_does_not_show_it() -> None:
    with pytest.raises(errors.KeyRefusedError) as caught:
        key.parse("c2VjcmV0")
    assert "c2VjcmV0" not in str(caught.value)

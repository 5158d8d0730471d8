from __future__ import annotations

import base64

import pytest

from cnf.tunnel import errors
from cnf.tunnel.plan import public_key


@pytest.mark.parametrize("text", ["", "nonsense!", "AAAA", base64.b64encode(bytes(32)).decode()])
def test_malformed_public_keys_are_refused(text: str) -> None:
    with pytest.raises(errors.KeyRefusedError, match="publicKey"):
        public_key.parse(text)

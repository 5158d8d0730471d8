"""Frontends and backends of virtual addresses for tests."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from cnf.vip import table
from cnf.vip.table import Backend, BackendAddress, Frontend


def front(number: int, protocol: table.Protocol = "tcp") -> Frontend:
    return Frontend(ipaddress.ip_address(f"10.112.0.{number}"), protocol, 80)


def back(*numbers: int, sticky: bool = False) -> Backend:
    return Backend(
        tuple(BackendAddress(ipaddress.ip_address(f"10.113.0.{n}"), 8080) for n in sorted(numbers)), sticky=sticky
    )


backends = st.builds(
    lambda numbers, sticky: back(*numbers, sticky=sticky), st.sets(st.integers(1, 9), max_size=8), st.booleans()
)

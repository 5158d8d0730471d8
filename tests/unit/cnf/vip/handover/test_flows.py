"""What becomes of a tracked connection that is put back."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnf.netlink import wire
from cnf.vip import tracking
from cnf.vip.handover import flows
from cnf.vip.tracking import Flow, FlowEnd

ports = st.integers(0, 65535).map(lambda port: port.to_bytes(2, "big"))


def ends(size: int) -> st.SearchStrategy[FlowEnd]:
    return st.builds(FlowEnd, address=st.binary(min_size=size, max_size=size), port=ports)


CLIENT, VIP, TARGET, NODE = (
    FlowEnd(ipaddress.ip_address(address).packed, port.to_bytes(2, "big"))
    for address, port in (("10.113.0.2", 40000), ("10.112.0.7", 80), ("10.114.0.3", 8080), ("10.113.0.0", 40001))
)


def entry(
    *,
    answered: Flow | None = None,
    protocol: int = socket.IPPROTO_TCP,
    status: int = tracking.DST_NAT | tracking.SEEN_REPLY,
    timeout_s: int = 100,
) -> bytes:
    return b"".join(
        (
            tracking.head(4),
            Flow(protocol, CLIENT, VIP).encode(tracking.TUPLE_ORIG),
            (answered or Flow(protocol, TARGET, CLIENT)).encode(tracking.TUPLE_REPLY),
            wire.attribute(tracking.STATUS, tracking.be32(status)),
            wire.attribute(tracking.TIMEOUT, tracking.be32(timeout_s)),
            wire.nested(tracking.PROTOINFO, wire.nested(1, wire.attribute(1, b"\x03"))),
        )
    )


def planned(body: bytes, *, age_s: float = 0) -> list[dict[int, bytes]]:
    messages = flows.plan_restore(tracking.join([body]), age_s=age_s)
    return [wire.attributes(message.body[tracking.HEAD.size :]) for message in messages]


@pytest.mark.parametrize(("version", "size"), [(4, 4), (6, 16)])
def test_nothing_is_read_from_what_is_cut_off(version: int, size: int) -> None:
    encoded = Flow(17, FlowEnd(bytes(size), b"\0\1"), FlowEnd(bytes(size), b"\0\2")).encode(tracking.TUPLE_ORIG)[4:]
    assert tracking.parse_flow(encoded, version) is not None
    assert not any(tracking.parse_flow(encoded[:length], version) for length in range(len(encoded)))


@given(st.integers(0, 255), ends(4), ends(4))
def test_what_is_encoded_is_read_again(protocol: int, source: FlowEnd, destination: FlowEnd) -> None:
    flow = Flow(protocol, source, destination)
    assert tracking.parse_flow(flow.encode(tracking.TUPLE_REPLY)[4:], 4) == flow


@given(st.integers(0, 255), ends(16), ends(16))
def test_so_is_ipv6(protocol: int, source: FlowEnd, destination: FlowEnd) -> None:
    flow = Flow(protocol, source, destination)
    assert tracking.parse_flow(flow.encode(tracking.TUPLE_ORIG)[4:], 6) == flow


@pytest.mark.parametrize(("version", "size"), [(4, 4), (6, 16)])
def test_where_a_flow_goes_is_seen_before_it_is_parsed(version: int, size: int) -> None:
    flow = Flow(17, FlowEnd(b"\1" * size, b"\0\1"), FlowEnd(b"\2" * size, b"\0\2"))
    body = tracking.head(version) + flow.encode(tracking.TUPLE_ORIG) + flow.reversed().encode(tracking.TUPLE_REPLY)
    assert tracking.peek_destination(body, version) == flow.destination.address


def test_the_time_that_passed_counts() -> None:
    (found,) = planned(entry(timeout_s=100), age_s=30)
    assert tracking.parse_be32(found[tracking.TIMEOUT]) == 70
    assert planned(entry(timeout_s=100), age_s=99.5) == []


def test_what_nobody_translated_is_left_out() -> None:
    assert planned(entry(status=tracking.SEEN_REPLY)) == []


def test_a_kernel_that_lists_all_connections_crowds_no_translated_one_out() -> None:
    direct = entry(answered=Flow(socket.IPPROTO_TCP, VIP, CLIENT), status=tracking.SEEN_REPLY)
    assert list(flows.select([direct] * flows.MAX_ENTRIES + [entry()])) == [entry()]
    assert len(list(flows.select([entry()] * (flows.MAX_ENTRIES + 1)))) == flows.MAX_ENTRIES


def test_the_source_is_translated_again_where_it_was() -> None:
    (plain,) = planned(entry())
    assert tracking.NAT_SRC not in plain
    assert TARGET.address in plain[tracking.NAT_DST]
    (hairpin,) = planned(entry(answered=Flow(socket.IPPROTO_TCP, CLIENT, NODE)))
    assert NODE.address in hairpin[tracking.NAT_SRC]


def test_the_state_of_tcp_is_kept_and_its_windows_are_not_checked() -> None:
    (found,) = planned(entry())
    state = wire.attributes(wire.attributes(found[tracking.PROTOINFO])[1])
    assert (state[1], state[4], state[5]) == (b"\x03", b"\x08\x08", b"\x08\x08")


@pytest.mark.parametrize("cut", range(0, 150, 7))
def test_entries_that_are_cut_off_are_left_out(cut: int) -> None:
    whole = tracking.join([entry()])
    assert cut < len(whole)
    assert list(flows.plan_restore(whole[:cut], age_s=0)) == []

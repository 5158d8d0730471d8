"""Whatever of a transaction is refused is left out, and tried again after a pause that doubles."""

from __future__ import annotations

import errno
import ipaddress
import logging
from collections.abc import Collection

import pytest
from fake_clock import FakeClock
from hypothesis import given
from hypothesis import strategies as st
from vip_objects import backends, front

from cnf.netlink import errors as netlink_errors
from cnf.netlink import wire
from cnf.vip import elements, errors, refusals, table, transaction
from cnf.vip.fill import TableFill
from cnf.vip.table import Backend, BackendAddress, ExportedPort, Frontend, Shares, VipTable

addresses = st.ip_addresses()
ports = st.integers(1, 65535)
protocols = st.sampled_from(["tcp", "udp", "sctp"])
tables = st.builds(
    VipTable,
    backends=st.dictionaries(st.builds(Frontend, st.ip_addresses(v=6), protocols, ports), backends, max_size=3)
    | st.dictionaries(st.integers(1, 4).map(front), backends),
    exported=st.frozensets(st.builds(ExportedPort, addresses, protocols, ports), max_size=3),
    hairpin=st.frozensets(addresses, max_size=3),
)


@given(tables)
def test_apart_each_message_concerns_what_it_says(wanted: VipTable) -> None:
    made = elements.difference(table.EMPTY, wanted)
    found: dict[str, set[bytes]] = {}
    for subject, message in elements.frame_by_subject(made, table="t"):
        assert subject is not None
        one = VipTable(
            backends={front: back for front, back in wanted.backends.items() if front == subject},
            exported=frozenset({port for port in wanted.exported if port == subject}),
            hairpin=frozenset({address for address in wanted.hairpin if address == subject}),
        )
        kind = message.action.removeprefix("add to ")
        known = elements.difference(table.EMPTY, one).added[kind]
        elements_of = {key for key in known if key in message.body}
        assert elements_of
        found.setdefault(kind, set()).update(elements_of)
    assert found == {name: set(keys) for name, keys in made.added.items()}


class FakeNftables:
    """Takes whole batches, but none with anything about one of ``refused`` addresses."""

    def __init__(self, *refused: str, code: int = errno.EINVAL) -> None:
        self.refused = [ipaddress.ip_address(text).packed for text in refused]
        self.code = code
        self.batches = 0

    def write(self, batch: transaction.Batch) -> None:
        self.batches += 1
        answers = enumerate(wire.answers(batch.content))
        bad = [number for number, message in answers if any(packed in message.body for packed in self.refused)]
        if bad:
            errors_of = [errors.KernelRefusal(number, netlink_errors.refused(self.code, "add", "")) for number in bad]
            raise errors.RulesetRefusedError("refused", errors_of)


def service(number: int, *targets: int) -> VipTable:
    backend = Backend(tuple(BackendAddress(ipaddress.ip_address(f"10.113.0.{target}"), 8080) for target in targets))
    return VipTable({front(number): backend})


SERVICES = {f"s{number}": service(number, number, number + 100) for number in range(1, 60)}


def fill(
    kernel: FakeNftables, shares: Shares, *, over: Shares | None = None
) -> tuple[Shares, refusals.RefusedServices]:
    one = TableFill(
        shares,
        versions=[4],
        over=over,
        changed=None if over is None else table.difference(over, shares),
        former=over or {},
    )
    found = one.write(kernel.write)
    return one.shares, found


@given(st.sets(st.integers(1, 59), max_size=9))
def test_just_those_that_are_refused_are_left_out_in_three_transactions(numbers: Collection[int]) -> None:
    kernel = FakeNftables(*(f"10.113.0.{number}" for number in numbers))

    in_force, found = fill(kernel, SERVICES)

    assert set(found) == {f"s{number}" for number in numbers}
    assert in_force == {key: share for key, share in SERVICES.items() if key not in found}
    assert kernel.batches == (3 if numbers else 1)


def test_what_is_not_refused_costs_one_transaction() -> None:
    kernel = FakeNftables()
    fill(kernel, SERVICES)
    fill(kernel, {**SERVICES, "s1": service(1, 4)}, over=SERVICES)
    assert kernel.batches == 2


def test_a_former_share_that_is_refused_as_well_is_left_out_altogether() -> None:
    former = {"a": service(1, 7, 8)}
    kernel = FakeNftables("10.113.0.7", "10.113.0.9")
    one = TableFill({"a": service(1, 9), "b": service(2, 5)}, versions=[4], former=former)

    found = one.write(kernel.write)

    assert set(one.shares) == {"b"}
    assert set(found) == {"a"}


@pytest.mark.parametrize("code", [errno.EEXIST, errno.ENOENT])
def test_what_somebody_else_did_to_the_table_is_laid_to_no_service(code: int) -> None:
    kernel = FakeNftables("10.113.0.7", code=code)
    with pytest.raises(errors.RulesetRefusedError):
        fill(kernel, SERVICES)
    assert kernel.batches == 1


def test_of_two_services_with_one_address_the_one_that_has_it_is_left_out() -> None:
    first, second = service(1, 7), service(1, 8)

    in_force, found = fill(FakeNftables("10.113.0.7"), {"a": first, "b": second})

    assert (set(found), dict(in_force)) == ({"a"}, {"b": second})


WHY = {"bad": refusals.RefusalReason("10.112.0.1:80/tcp", "add to spread4_1: Invalid argument")}


def test_the_pause_doubles_up_to_a_minute_and_ends_with_success() -> None:
    clock = FakeClock(100)
    seen = refusals.Refusals(clock)
    wanted = {"bad": service(1, 1), "good": service(2, 2)}
    pauses = []
    for _ in range(9):
        assert seen.hold_back(wanted, {}) == wanted
        seen.record_attempt(wanted, wanted, WHY)
        pauses.append(seen.wait_s)
        clock.now += seen.wait_s - 0.01
        assert set(seen.hold_back(wanted, {})) == {"good"}
        clock.now += 0.02

    assert pauses == [pytest.approx(pause) for pause in (1, 2, 4, 8, 16, 32, 60, 60, 60)]
    seen.record_attempt(wanted, wanted, {})
    assert (len(seen), seen.wait_s, seen.describe()) == (0, float("inf"), "")


def test_one_that_changes_is_tried_at_once_and_one_that_waits_stays_refused() -> None:
    seen = refusals.Refusals(FakeClock(100))
    former, wanted = {"bad": service(1, 3)}, {"bad": service(1, 1)}
    seen.record_attempt(wanted, wanted, WHY)

    tried = seen.hold_back(wanted, former)
    assert tried == former
    seen.record_attempt(wanted, tried, {})
    assert seen.describe() == "bad (10.112.0.1:80/tcp: add to spread4_1: Invalid argument)"

    changed = {"bad": service(1, 2)}
    assert seen.hold_back(changed, former) is changed
    seen.record_attempt(changed, changed, {})
    assert not len(seen)


def test_a_refusal_is_reported_once_with_service_port_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock(100)
    seen = refusals.Refusals(clock)
    wanted = {"bad": service(1, 1)}
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            seen.record_attempt(wanted, seen.hold_back(wanted, {}), WHY)
            clock.now += 60
        seen.record_attempt({}, {}, {})

    refused, over = caplog.records
    assert refused.__dict__["refused"] == "bad (10.112.0.1:80/tcp: add to spread4_1: Invalid argument)"
    assert (refused.levelname, over.levelname, over.__dict__["count"]) == ("ERROR", "INFO", 0)

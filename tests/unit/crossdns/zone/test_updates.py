"""However services come and go, what is served is what a fresh start would serve."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from dns_objects import KEY, SERVER, Resolver, contents, make_endpoint, make_service, make_slice, rcode
from hypothesis import strategies

from crossdns import errors
from crossdns.server import feed
from crossdns.watch import saved
from crossdns.zone import table, zone
from fleetboard.model.keys import ServiceKey
from fleetboard.model.reach import Reach

LAST = 5
KEYS = [ServiceKey(namespace, name) for namespace in ("a", "b") for name in ("x", "y")]


def make_records(key: ServiceKey, variant: int) -> dict[str, zone.Records]:
    """Return one of several states of a service; 0 stands for no service, and the last has only its name."""
    if variant == 0:
        return {}
    if variant == 1:
        return zone.service_records(key, make_service(key), [], Reach())
    if variant == LAST:
        return zone.service_records(key, make_service(key, vips=(), ports=()), [], Reach())
    slices = [make_slice("c1", [make_endpoint(f"10.112.4.{n}") for n in range(1, variant)], key=key)]
    return zone.service_records(key, make_service(key, type_="Headless"), slices, Reach())


STEPS = strategies.lists(strategies.tuples(strategies.sampled_from(KEYS), strategies.integers(0, LAST)), max_size=25)


def state(resolver: Resolver) -> tuple[dict[bytes, tuple[bytes, bytes, int]], set[bytes]]:
    live = resolver.replica.answerer.zone
    assert live is not None
    return live.answers, live.names


@hypothesis.given(STEPS, strategies.integers(1, 7))
def test_changes_lead_where_a_snapshot_leads(steps: list[tuple[ServiceKey, int]], batch: int) -> None:
    changed, fresh = Resolver(), Resolver()
    changed.load()
    last: dict[ServiceKey, int] = {}
    for start in range(0, len(steps), batch):
        changes = []
        for key, variant in steps[start : start + batch]:
            last[key] = variant
            changes.append(changed.table.put(key, make_records(key, variant)))
        changed.publish([table.merge(changes)])
    for key, variant in last.items():
        fresh.table.put(key, make_records(key, variant))
    fresh.load()
    assert state(changed) == state(fresh)


def test_the_same_records_again_are_no_change() -> None:
    one = table.Table(server=SERVER)
    assert one.put(KEY, make_records(KEY, 3))
    assert not one.put(KEY, make_records(KEY, 3))


def test_one_more_endpoint_leaves_other_answers_alone() -> None:
    one = table.Table(server=SERVER)
    one.put(KEY, make_records(KEY, 3))
    change = one.put(KEY, make_records(KEY, 4))
    # The service's A, its two SRV names, and the new endpoint's A.
    assert len(change.entries) == 4


def test_the_old_zone_is_served_until_a_snapshot_is_whole() -> None:
    resolver = Resolver()
    resolver.put(make_service())
    other = table.Table(server=SERVER)
    *parts, commit = feed.frames(other.snapshot(), soa={}, generation=9, snapshot=True)
    for frame in parts:
        assert not resolver.replica.apply(frame)
        assert contents(resolver.ask("web.shop.svc.hyperos.local")) == ["10.112.0.9"]
    assert resolver.replica.apply(commit)
    assert resolver.replica.generation == 9


def test_frames_may_arrive_in_any_pieces() -> None:
    one = table.Table(server=SERVER)
    one.put(KEY, make_records(KEY, 4))
    sent = list(feed.frames(one.snapshot(), soa={b"\0": b"x"}, generation=3, snapshot=True))
    stream = b"".join(map(feed.pack, sent))
    for size in (1, 7, 1000):
        unpacker = feed.Unpacker()
        got = [frame for at in range(0, len(stream), size) for frame in unpacker.feed(stream[at : at + size])]
        assert got == sent


@pytest.mark.parametrize("stream", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1"])
def test_what_is_no_frame_is_refused(stream: bytes) -> None:
    with pytest.raises(errors.FeedBrokenError):
        list(feed.Unpacker().feed(stream))


def test_a_change_before_any_snapshot_is_refused() -> None:
    with pytest.raises(errors.FeedBrokenError):
        Resolver().replica.apply(feed.Frame(feed.FrameKind.PART, table.ZoneChange([b"\0"])))


def test_a_saved_zone_is_served_after_a_restart(tmp_path: Path) -> None:
    before, after = Resolver(), Resolver()
    before.put(make_service())
    saved.ZoneFile(tmp_path).save(before.table.snapshot())
    loaded = saved.ZoneFile(tmp_path).load()
    assert loaded is not None
    after.publish(loaded, snapshot=True)
    assert contents(after.ask("web.shop.svc.hyperos.local")) == ["10.112.0.9"]
    assert rcode(after.ask("other.shop.svc.hyperos.local")) == "NXDOMAIN"


def test_a_damaged_or_missing_saved_zone_is_not_served(tmp_path: Path) -> None:
    store = saved.ZoneFile(tmp_path)
    assert store.load() is None
    store.save(table.Table(server=SERVER).snapshot())
    path = tmp_path / "zone.bin"
    content = path.read_bytes()
    for damaged in (content[:-1], content[:50] + b"x" + content[51:], b"", b"abc"):
        path.write_bytes(damaged)
        assert store.load() is None

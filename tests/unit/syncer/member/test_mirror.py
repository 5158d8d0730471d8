"""What keeps a copy of a hub's object equal to it."""

from __future__ import annotations

import msgspec
from mcs_objects import make_merged

from fleetboard.kube import encoding
from fleetboard.model import fleet, meta, resource
from syncer.member import mirror
from syncer.member.mirror import MirrorStep


def make_peer(namespace: str, *, mtu: int = 1360, labels: dict[str, str] | None = None) -> fleet.Peer:
    return fleet.Peer(
        metadata=meta.ObjectMeta(name="c1", namespace=namespace, uid=namespace, labels=labels or {}),
        spec=fleet.PeerSpec(cluster="c1"),
        status=fleet.PeerStatus(mtu=mtu, cluster_cidrs=["10.113.0.0/22"]),
    )


def test_a_new_peer_is_written_whole_status_last() -> None:
    planned = mirror.plan(make_peer("hub-ns"), None)
    assert planned.steps == (MirrorStep.WRITE, MirrorStep.WRITE_STATUS)
    assert planned.copy["status"]["clusterCidrs"] == ["10.113.0.0/22"]
    assert planned.copy["metadata"] == {"name": "c1", "namespace": "fleetboard-system"}


def test_an_equal_copy_costs_no_write() -> None:
    assert mirror.plan(make_peer("hub-ns"), make_peer("fleetboard-system")).steps == ()


def test_a_changed_status_is_written_alone() -> None:
    assert mirror.plan(make_peer("hub-ns"), make_peer("fleetboard-system", mtu=1280)).steps == (
        MirrorStep.WRITE_STATUS,
    )


def test_labels_of_the_original_are_copied() -> None:
    original = make_peer("hub-ns", labels={"fleetboard.io/cluster": "c1"})
    assert mirror.plan(original, make_peer("fleetboard-system")).steps == (MirrorStep.WRITE,)


def test_a_copy_without_its_original_goes_and_nothing_twice() -> None:
    assert mirror.plan(None, make_peer("fleetboard-system")).steps == (MirrorStep.DELETE,)
    assert mirror.plan(None, None).steps == ()


def test_a_service_has_no_status_to_write() -> None:
    assert mirror.plan(make_merged("c1"), None).steps == (MirrorStep.WRITE,)
    assert mirror.plan(make_merged("c1"), make_merged("c1")).steps == ()
    changed = make_merged("c1", vips=["10.112.0.1"])
    assert mirror.plan(changed, make_merged("c1")).steps == (MirrorStep.WRITE,)


def test_what_is_written_reads_back_as_the_original() -> None:
    original = make_peer("hub-ns")
    written = msgspec.json.encode(encoding.encode(resource.PEERS, mirror.plan(original, None).copy))
    read = encoding.decode(resource.PEERS, written)
    assert (read.spec, read.status) == (original.spec, original.status)

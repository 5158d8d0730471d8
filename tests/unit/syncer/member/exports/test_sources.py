"""Which pod has which fleet addresses, by what the nodes say."""

from __future__ import annotations

from ipaddress import ip_address

from fleetboard.model import fleet, meta
from syncer.member.exports import sources


def make_attachment(uid: str, *addresses: str) -> fleet.Attachment:
    return fleet.Attachment(
        pod_uid=uid, pod_namespace="default", pod_name=uid, interface="net1", addresses=list(addresses)
    )


def test_a_malformed_attachment_is_left_out_and_the_others_count() -> None:
    attachments = [
        make_attachment("a", "10.113.0.5/32"),
        make_attachment("b", "nonsense"),
        make_attachment("a", "fd00::5"),
    ]
    node = fleet.NodeAttachments(metadata=meta.ObjectMeta(name="n1"), attachments=attachments)
    assert sources.addresses_by_pod(node) == {"a": (ip_address("10.113.0.5"), ip_address("fd00::5"))}

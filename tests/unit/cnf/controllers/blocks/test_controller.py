"""The leader's writes: in which order, at which version, and what it leaves to the next."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from block_store import CLUSTER, Ended, Store, make_leader

from cnf.controllers.blocks import controller, plan
from fleetboard.kube import errors
from fleetboard.model import addresses, fleet, meta, resource

FIRST, SECOND, THIRD = "10.113.4.0/26", "10.113.4.64/26", "10.113.4.128/26"


def make_store(**nodes: fleet.FleetNodeStatus) -> Store:
    """A store with nodes that have their first block each, in order."""
    store = Store()
    for (name, status), block in zip(nodes.items(), (FIRST, SECOND), strict=False):
        metadata = meta.ObjectMeta(name=name, creation_timestamp=name)
        spec = fleet.FleetNodeSpec(blocks=[block])
        store.create(resource.FLEET_NODES, fleet.FleetNode(metadata=metadata, spec=spec, status=status))
        claim(store, block, name)
    return store


def claim(store: Store, block: str, owner: str) -> None:
    name = addresses.claim_name(addresses.parse_cidr(block, field="block"))
    spec = fleet.ClaimSpec(cidr=block, purpose=plan.PURPOSE, owner=owner)
    store.create(resource.CLAIMS, fleet.Claim(metadata=meta.ObjectMeta(name=name), spec=spec))


def status(wanted: int = 1, *returned: str) -> fleet.FleetNodeStatus:
    return fleet.FleetNodeStatus(public_key="k", blocks_wanted=wanted, blocks_returned=list(returned))


def shown(store: Store, name: str) -> list[str]:
    found: fleet.FleetNode = store.objects[(resource.FLEET_NODES.plural, name)]
    return found.spec.blocks


def claims(store: Store) -> dict[str, tuple[str, bool, bool]]:
    found: list[fleet.Claim] = store.all(resource.CLAIMS)
    return {c.spec.cidr: (c.spec.owner, bool(c.spec.released), c.spec.returned) for c in found}


def lead(store: Store, *, before_call: dict[int, Callable[[], None]] | None = None) -> float | None:
    """Let a leader that knows everything work once; ``before_call`` counts its calls from 2, the first lists nodes."""
    store.before_call = {store.calls + number: action for number, action in (before_call or {}).items()}
    return make_leader(store)[0].reconcile("all")


def end() -> None:
    raise Ended


def with_two_blocks() -> Store:
    """A node that has two blocks, the second of which it has returned."""
    store = make_store(n0=status(2))
    lead(store)
    assert shown(store, "n0") == [FIRST, SECOND]
    store.write_status("n0", status(1, SECOND))
    return store


def test_all_the_blocks_that_a_node_wants_come_in_one_write() -> None:
    store = make_store(n0=status(4))
    before = store.version
    lead(store)
    assert shown(store, "n0") == [FIRST, SECOND, THIRD, "10.113.4.192/26"]
    assert store.version == before + 4


def test_a_returned_block_is_taken_and_then_its_claim_says_so() -> None:
    store = with_two_blocks()
    lead(store)
    assert shown(store, "n0") == [FIRST]
    assert claims(store)[SECOND] == ("n0", True, True)


def test_a_first_block_is_not_taken_whatever_the_node_says() -> None:
    store = make_store(n0=status(1, FIRST))
    lead(store)
    assert shown(store, "n0")[0] == FIRST


def test_a_leader_that_ends_between_taking_and_marking_is_finished_by_the_next() -> None:
    store = with_two_blocks()
    with pytest.raises(Ended):
        lead(store, before_call={4: end})
    assert (shown(store, "n0"), claims(store)[SECOND]) == ([FIRST], ("n0", False, False))
    lead(store)
    assert claims(store)[SECOND] == ("n0", True, True)


def test_a_block_that_nobody_can_say_was_empty_rests_a_day() -> None:
    store = with_two_blocks()
    with pytest.raises(Ended):
        lead(store, before_call={4: end})
    store.write_status("n0", status(1))  # the node has seen it taken and forgotten about it
    lead(store)
    assert claims(store)[SECOND] == ("n0", True, False)


def test_a_leader_that_read_a_node_before_another_wrote_it_undoes_nothing() -> None:
    store = make_store(n0=status(2))

    def give_meanwhile() -> None:
        node = store.objects[(resource.FLEET_NODES.plural, "n0")]
        spec = fleet.FleetNodeSpec(blocks=[FIRST, THIRD])
        store.replace(resource.FLEET_NODES, msgspec.structs.replace(node, spec=spec))

    assert lead(store, before_call={4: give_meanwhile}) == controller.SOON_S
    assert shown(store, "n0") == [FIRST, THIRD]
    lead(store)
    assert claims(store)[SECOND] == ("n0", True, False)


def test_a_node_or_claim_that_changes_meanwhile_does_not_hold_up_the_others() -> None:
    store = make_store(n0=status(2), n1=status(2))
    leader, view = make_leader(store)
    claim(store, THIRD, "n2")
    assert leader.reconcile("all") == controller.SOON_S
    assert (shown(store, "n0"), shown(store, "n1")) == ([FIRST], [SECOND, "10.113.4.192/26"])
    view.catch_up(store)
    assert leader.reconcile("all") == controller.RESYNC_S
    assert len(shown(store, "n0")) == 2


def test_a_block_is_not_granted_again_to_a_node_that_has_not_seen_it_taken() -> None:
    store = with_two_blocks()
    lead(store)
    store.write_status("n0", status(2, SECOND))
    lead(store)
    assert shown(store, "n0") == [FIRST, THIRD]


def test_a_leader_with_an_old_copy_does_not_grant_again_what_the_node_has_returned_meanwhile() -> None:
    store = make_store(n0=status(2))
    claim(store, SECOND, "n0")
    leader, _ = make_leader(store)
    store.write_status("n0", status(2, SECOND))
    leader.reconcile("all")
    assert shown(store, "n0") == [FIRST]


def test_a_claim_that_is_given_out_again_is_written_so_that_who_is_about_to_release_it_fails() -> None:
    store = make_store(n0=status(2))
    claim(store, SECOND, "n0")
    other = store.objects[(resource.CLAIMS.plural, "10.113.4.64-26")]
    lead(store)
    assert (shown(store, "n0"), claims(store)[SECOND]) == ([FIRST, SECOND], ("n0", False, False))
    with pytest.raises(errors.ConflictError):
        store.replace(resource.CLAIMS, other)


def test_what_was_given_back_goes_to_another_when_nothing_else_is_left() -> None:
    store = with_two_blocks()
    lead(store)
    for block in list(addresses.node_blocks([addresses.parse_cidr(CLUSTER, field="")]))[2:]:
        claim(store, str(block), "gone")
    metadata = meta.ObjectMeta(name="n1", creation_timestamp="n1")
    store.create(resource.FLEET_NODES, fleet.FleetNode(metadata=metadata, status=status()))
    lead(store)
    assert (shown(store, "n1"), claims(store)[SECOND]) == ([SECOND], ("n1", False, False))


def test_a_node_created_again_gets_nothing_that_was_planned_for_the_former_one() -> None:
    store = make_store(n0=status(2))
    leader, _ = make_leader(store)
    del store.objects[(resource.FLEET_NODES.plural, "n0")]
    store.create(resource.FLEET_NODES, fleet.FleetNode(metadata=meta.ObjectMeta(name="n0")))
    leader.reconcile("all")
    assert shown(store, "n0") == []


def test_an_exhausted_cluster_is_reported_in_an_event_on_the_node_once() -> None:
    store = make_store(n0=status(9))
    leader, view = make_leader(store)
    leader.reconcile("all")
    view.catch_up(store)
    leader.reconcile("all")
    view.catch_up(store)
    leader.reconcile("all")
    [(node, reason, sentence), *others] = view.recorder.events
    assert not others
    assert (node, reason) == ("n0", "NoFreeBlock")
    assert CLUSTER in sentence

"""Allocates and releases addresses by Claim objects on the hub.

Invariant: an address is allocated only after the API server accepted the create of the Claim named after it, or its
replacement at the version that was read. What is remembered here only saves requests.
"""

from __future__ import annotations

import datetime
import ipaddress
import logging
import threading
from collections.abc import Callable, Iterable

from fleetboard.kube import errors
from fleetboard.kube.client import Client
from fleetboard.model import addresses, fleet, meta, names, resource, times
from fleetboard.model.addresses import Network
from syncer.rules import allocation

log = logging.getLogger(__name__)


class AddressesExhaustedError(Exception):
    """No address or block of this kind is left."""


class Claims:
    """The Claims of one clusterset. Thread-safe."""

    def __init__(self, client: Client, *, clusterset: str, now: Callable[[], datetime.datetime]) -> None:
        self._client = client
        self._clusterset = clusterset
        self._namespace = names.clusterset_namespace(clusterset)
        self._now = now
        self._lock = threading.RLock()
        self._known: dict[str, fleet.Claim] = {}
        self._of_owner: dict[tuple[str, str], set[str]] = {}

    def update(self, name: str, claim: fleet.Claim | None) -> None:
        """Take over what the API holds under ``name``, unless this process wrote a newer version."""
        with self._lock:
            known = self._known.get(name)
            if known is not None and claim is not None and _version(claim) < _version(known):
                return
            if known is not None:
                self._of_owner.get(_holder(known), set()).discard(name)
            self._known.pop(name, None)
            if claim is not None and _unit(claim) is not None:
                self._known[name] = claim
                self._of_owner.setdefault(_holder(claim), set()).add(name)

    def owned(self, purpose: str, owner: str) -> list[Network]:
        """Return the units that are allocated to ``owner``, by address."""
        return self._units(purpose, owner, released=False)

    def owners(self, purpose: str) -> set[str]:
        """Return every owner, current or former, of a unit with this purpose."""
        with self._lock:
            return {owner for (its_purpose, owner), found in self._of_owner.items() if its_purpose == purpose and found}

    def count(self, purpose: str) -> tuple[int, int]:
        """Return how many units are allocated, and how many are quarantined."""
        with self._lock:
            states = [bool(claim.spec.released) for claim in self._known.values() if claim.spec.purpose == purpose]
        return len(states) - sum(states), sum(states)

    def vip(self, layout: addresses.FleetLayout, owner: str) -> Network:
        """Return the service's address in the layout's family; allocate one if it has none.

        Raises:
            AddressesExhaustedError: the range is full.
        """
        # Without the lock: services that arrive together must not wait for each other's writes. The create decides.
        owned = [unit for unit in self.owned(allocation.VIP, owner) if unit.version == layout.fleet.version]
        if owned:
            return owned[0]
        old = self._units(allocation.VIP, owner, released=True)
        candidates = allocation.choose_vip(layout.vips, owner, self._lookup, old=old)
        return self._take(candidates, purpose=allocation.VIP, owner=owner)[0]

    def blocks(self, layout: addresses.FleetLayout, owner: str, *, wanted: int) -> list[Network]:
        """Return the owner's units in the layout's family, at least ``wanted`` of them.

        Raises:
            AddressesExhaustedError: the fleet CIDR is full.
        """
        version = layout.fleet.version
        with self._lock:
            while True:
                owned = [unit for unit in self.owned(allocation.CLUSTER_BLOCK, owner) if unit.version == version]
                if len(owned) >= wanted:
                    return owned
                old = self._units(allocation.CLUSTER_BLOCK, owner, released=True)
                size = allocation.next_size(len(owned), wanted=wanted)
                candidates = allocation.choose_block(layout, owner, self._lookup, units=size, old=old)
                self._take(candidates, purpose=allocation.CLUSTER_BLOCK, owner=owner)

    def release(self, purpose: str, owner: str) -> None:
        """Release all units of ``owner``; nobody else gets them for 24 h."""
        with self._lock:
            for unit in self.owned(purpose, owner):
                self._release(unit)

    def sweep(self) -> None:
        """Delete the Claims whose quarantine is over."""
        with self._lock:
            for name, claim in list(self._known.items()):
                released_for = allocation.since(claim.spec.released, now=self._now())
                if released_for is not None and released_for >= allocation.QUARANTINE:
                    self._client.delete(resource.CLAIMS, name, self._namespace, uid=claim.metadata.uid)
                    self.update(name, None)

    def _units(self, purpose: str, owner: str, *, released: bool) -> list[Network]:
        with self._lock:
            claims = [self._known[name] for name in self._of_owner.get((purpose, owner), set())]
        units = [_unit(claim) for claim in claims if bool(claim.spec.released) is released]
        return sorted((unit for unit in units if unit is not None), key=lambda unit: (unit.version, int(unit[0])))

    def _lookup(self, unit: Network) -> allocation.Held | None:
        claim = self._known.get(addresses.claim_name(unit))
        return None if claim is None else allocation.read_held(claim, now=self._now())

    def _take(self, groups: Iterable[tuple[Network, ...]], *, purpose: str, owner: str) -> tuple[Network, ...]:
        for group in groups:
            taken: list[Network] = []
            for unit in group:
                if not self._claim(unit, purpose=purpose, owner=owner):
                    break
                taken.append(unit)
            if len(taken) == len(group):
                units = [str(unit) for unit in group]
                log.info("allocated addresses", extra={"purpose": purpose, "owner": owner, "units": units})
                return group
            for unit in taken:
                self._release(unit)
        raise AddressesExhaustedError(f"no {purpose} is left for {owner!r}: the fleet CIDR is full")

    def _claim(self, unit: Network, *, purpose: str, owner: str) -> bool:
        name = addresses.claim_name(unit)
        spec = fleet.ClaimSpec(cidr=str(unit), purpose=purpose, owner=owner)
        known = self._known.get(name)
        if known is None:
            try:
                self.update(name, self._client.create(resource.CLAIMS, self._render(name, spec)))
            except errors.AlreadyExistsError:
                known = self._refresh(name)
            else:
                return True
        if known is None:
            return False
        held = allocation.read_held(known, now=self._now())
        if held.released is None:
            return held.owner == owner and known.spec.purpose == purpose
        return held.free_for(owner) and self._replace(known, spec)

    def _release(self, unit: Network) -> None:
        claim = self._known[addresses.claim_name(unit)]
        moment = times.render(self._now())
        spec = fleet.ClaimSpec(
            cidr=claim.spec.cidr, purpose=claim.spec.purpose, owner=claim.spec.owner, released=moment
        )
        if not self._replace(claim, spec):
            # Someone changed it by hand: the controller retries what the owner still has.
            raise errors.ConflictError(409, "Conflict", f"Claim {claim.metadata.name} changed while it was released")

    def _replace(self, known: fleet.Claim, spec: fleet.ClaimSpec) -> bool:
        name = known.metadata.name
        claim = self._render(name, spec, version=known.metadata.resource_version)
        try:
            self.update(name, self._client.replace(resource.CLAIMS, claim))
        except (errors.ConflictError, errors.NotFoundError):
            self._refresh(name)
            return False
        return True

    def _refresh(self, name: str) -> fleet.Claim | None:
        self.update(name, self._client.find(resource.CLAIMS, name, self._namespace))
        return self._known.get(name)

    def _render(self, name: str, spec: fleet.ClaimSpec, *, version: str = "") -> fleet.Claim:
        labels = {names.LABEL_CLUSTERSET: self._clusterset}
        metadata = meta.ObjectMeta(name=name, namespace=self._namespace, resource_version=version, labels=labels)
        return fleet.Claim(metadata=metadata, spec=spec)


def _holder(claim: fleet.Claim) -> tuple[str, str]:
    return claim.spec.purpose, claim.spec.owner


def _unit(claim: fleet.Claim) -> Network | None:
    """Return the unit that a Claim stands for; None when its name and CIDR disagree."""
    try:
        unit: Network = ipaddress.ip_network(claim.spec.cidr)
    except ValueError:
        return None
    return unit if addresses.claim_name(unit) == claim.metadata.name else None


def _version(claim: fleet.Claim) -> int:
    # Comparable within one collection (KEP-5504); the API server writes decimal numbers.
    return int(claim.metadata.resource_version or 0)

"""Metrics of the agent and the relay.

What the kernel or another part already counts is read when Prometheus asks, and never counted twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cnf.tunnel.session import probe
from cnf.tunnel.wireguard.tunnel import Tunnel
from cnf.vip import counters
from cnf.vip import errors as vip_errors
from fleetboard.model.addresses import Address


class TunnelCollector(Collector):
    """Peers, their handshakes and bytes, and the results of probes."""

    def __init__(self, tunnel: Tunnel, probed: Callable[[], Mapping[Address, probe.ProbeTarget]]) -> None:
        self._tunnel, self._probed = tunnel, probed

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering doesn't collect."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Read the device."""
        peers = self._tunnel.status()
        count = GaugeMetricFamily("fleetboard_tunnel_peers", "WireGuard peers.", value=len(peers))
        age = GaugeMetricFamily(
            "fleetboard_tunnel_handshake_age_seconds", "Age of a peer's last handshake.", labels=["peer"]
        )
        received = CounterMetricFamily(
            "fleetboard_tunnel_received_bytes", "Bytes received from a peer.", labels=["peer"]
        )
        sent = CounterMetricFamily("fleetboard_tunnel_sent_bytes", "Bytes sent to a peer.", labels=["peer"])
        for peer in peers:
            if peer.handshake_age_s is not None:
                age.add_metric([peer.public_key], peer.handshake_age_s)
            received.add_metric([peer.public_key], peer.rx_bytes)
            sent.add_metric([peer.public_key], peer.tx_bytes)
        yield from (count, age, received, sent, *self._actions(), *self._probes())

    def _actions(self) -> Iterable[Metric]:
        done = self._tunnel.counters
        family = CounterMetricFamily(
            "fleetboard_tunnel_actions",
            "Actions on the tunnel: sync compares, write writes the difference, kick removes a peer and adds it again, "
            "restore writes everything to a new device.",
            labels=["action"],
        )
        for action, value in (
            ("sync", done.syncs),
            ("write", done.writes),
            ("kick", done.revivals),
            ("restore", done.restores),
        ):
            family.add_metric([action], value)
        yield family

    def _probes(self) -> Iterable[Metric]:
        alive = GaugeMetricFamily(
            "fleetboard_probe_alive", "Whether a probed fleet address answers in the tunnel.", labels=["address"]
        )
        trip = GaugeMetricFamily(
            "fleetboard_probe_rtt_seconds", "Round trip of the last answered probe.", labels=["address"]
        )
        for address, target in self._probed().items():
            if target.alive is not None:
                alive.add_metric([str(address)], float(target.alive))
            if target.seen:
                trip.add_metric([str(address)], target.rtt_s)
        yield from (alive, trip)


class FirewallCollector(Collector):
    """What the firewall dropped or rejected, and the services with virtual addresses."""

    def __init__(
        self, *, services: Callable[[], int], refused: Callable[[], int], dropped: Callable[[], Mapping[str, int]]
    ) -> None:
        self._services, self._refused, self._dropped = services, refused, dropped

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering doesn't collect."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Read the named counters."""
        family = CounterMetricFamily(
            "fleetboard_firewall_refused_packets", "Packets dropped or rejected, by rule.", labels=["rule"]
        )
        try:
            seen = counters.read()
        except vip_errors.VipError:
            seen = {}
        for name, count in sorted(seen.items()):
            family.add_metric([name], count.packets)
        yield family
        yield GaugeMetricFamily("fleetboard_vip_services", "Services with virtual addresses.", value=self._services())
        yield GaugeMetricFamily(
            "fleetboard_vip_services_refused", "Services that the kernel refuses on this node.", value=self._refused()
        )
        outside = GaugeMetricFamily(
            "fleetboard_vip_endpoints_dropped", "Endpoints outside their cluster's blocks.", labels=["cluster"]
        )
        for cluster, number in self._dropped().items():
            outside.add_metric([cluster], number)
        yield outside


class NodeCollector(Collector):
    """Addresses, attachments and leadership of one node."""

    def __init__(
        self,
        *,
        usage: Callable[[], tuple[int, int]],
        attachments: Callable[[], int],
        leading: Callable[[], bool],
        epoch: Callable[[], int],
        latecomers: Callable[[], tuple[int, int]],
    ) -> None:
        self._latecomers = latecomers
        self._usage, self._attachments, self._leading, self._epoch = usage, attachments, leading, epoch
        self._started = time.time()

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering doesn't collect."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Read the parts."""
        used, free = self._usage()
        yield GaugeMetricFamily("fleetboard_addresses_used", "Fleet addresses of this node in use.", value=used)
        yield GaugeMetricFamily("fleetboard_addresses_free", "Fleet addresses of this node to give.", value=free)
        waiting, healed = self._latecomers()
        yield GaugeMetricFamily(
            "fleetboard_pods_unattached", "Pods that run without the interface they ask for.", value=waiting
        )
        yield CounterMetricFamily(
            "fleetboard_pods_healed", "Pods wired after they had started without their interface.", value=healed
        )
        yield GaugeMetricFamily("fleetboard_attachments", "Pods attached on this node.", value=self._attachments())
        yield GaugeMetricFamily(
            "fleetboard_leader", "1 on the node that carries this cluster's traffic.", value=float(self._leading())
        )
        yield GaugeMetricFamily("fleetboard_leader_epoch", "Terms that leadership has had.", value=self._epoch())
        yield GaugeMetricFamily(
            "fleetboard_start_time_seconds", "When this process started, since the epoch.", value=self._started
        )


class CniCalls:
    """CNI calls, counted as they are answered: a pod's start waits for them."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "fleetboard_cni_call_seconds",
            "Time from a CNI call's arrival until its answer is ready.",
            ["verb"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=None,
        )
        self._calls = Counter(
            "fleetboard_cni_calls",
            "CNI calls answered, by verb and CNI error code, 0 where there was none.",
            ["verb", "code"],
            registry=None,
        )

    @property
    def collectors(self) -> list[Collector]:
        """The collectors to register."""
        return [self._seconds, self._calls]

    def count(self, verb: str, code: int, seconds: float) -> None:
        """Count one call."""
        self._seconds.labels(verb).observe(seconds)
        self._calls.labels(verb, str(code)).inc()

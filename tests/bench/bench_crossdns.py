"""crossdns' answering processes without the API: ``SERVICES`` services, for as long as stdin is open."""

from __future__ import annotations

import ipaddress
import sys
import time

from crossdns import encode, feed, table, workers, zone
from fleetboard.model import fleet, names

SERVICES = 1000
SERVER = "crossdns.fleetboard-system.svc.cluster.local"


def address(number: int) -> ipaddress.IPv4Address:
    """Return the virtual address of one service."""
    return ipaddress.IPv4Address("10.112.16.0") + number


def main(port: int) -> None:
    """Serve until stdin ends."""
    made = table.Table(server=SERVER)
    for number in range(SERVICES):
        key = zone.ServiceKey("shop", f"web{number}")
        spec = fleet.FleetServiceSpec(namespace=key.namespace, name=key.name, vips=[str(address(number))])
        made.put(key, zone.service_records(key, fleet.FleetService(spec=spec), [], zone.Reach()))
    soa = {encode.name(name): encode.soa_content(server=SERVER, zone_name=name, serial=1) for name in names.ZONES}
    answering = workers.Workers(port=port, udp_processes=1)
    try:
        answering.publish(
            lambda generation: feed.frames(made.snapshot(), soa=soa, generation=generation, snapshot=True)
        )
        deadline = time.monotonic() + 20
        while not answering.served() and time.monotonic() < deadline:
            time.sleep(0.01)
        print("serving", flush=True)
        sys.stdin.read()
    finally:
        answering.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))

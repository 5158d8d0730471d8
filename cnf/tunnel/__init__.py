"""WireGuard, routes and leadership: how fleet traffic leaves the node."""

"""How fleet traffic leaves the node: ``plan`` decides, ``wireguard`` writes to the kernel, ``session`` probes it."""

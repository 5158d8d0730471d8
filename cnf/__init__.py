"""The node's part: wires pods, carries their traffic by WireGuard and spreads virtual addresses."""

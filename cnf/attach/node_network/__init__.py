"""The node's part of the fleet: its address, its blocks, and what keeps them over restarts."""

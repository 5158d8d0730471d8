"""The node's part of the fleet: its address, the blocks of its pods, the fleet's CIDRs and MTU."""

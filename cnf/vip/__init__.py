"""Clusterset virtual addresses as nftables maps, and what cnf's namespace forwards."""

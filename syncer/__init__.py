"""Moves the MCS objects between a child cluster and the hub."""

"""Moves the MCS objects between a member cluster and the hub."""

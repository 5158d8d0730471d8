"""Moves exports, imports and reports between the member clusters and the hub."""

"""Removes Fleetboard from a cluster."""

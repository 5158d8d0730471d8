"""Exports this cluster's Services to the hub."""

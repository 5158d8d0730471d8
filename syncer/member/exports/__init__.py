"""Exports: from this cluster's Services to the hub."""

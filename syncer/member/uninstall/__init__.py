"""Takes Fleetboard out of a cluster."""

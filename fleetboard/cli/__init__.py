"""The fleetboard command."""

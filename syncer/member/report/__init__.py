"""What this cluster reports of itself to the hub."""

"""Joining the hub, and staying joined."""

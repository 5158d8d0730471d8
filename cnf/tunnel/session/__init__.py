"""The conversation inside the tunnel: probes, announcements of a leader, recovery of a silent peer."""

"""The latency probe: how long a change takes from one cluster to another and back."""

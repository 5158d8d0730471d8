"""What an operator sees of a running part: logs, metrics, health."""

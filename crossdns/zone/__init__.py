"""Which names there are, and what they hold."""

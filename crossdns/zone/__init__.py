"""The names of services and their records, as values and as bytes."""

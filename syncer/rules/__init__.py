"""Rules that syncer and syncer-hub share: what the hub admits, how it allocates, which slices are believed."""

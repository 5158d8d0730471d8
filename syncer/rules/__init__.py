"""Rules that syncer and syncer-hub share: what is admitted, what is allocated, and which slices are believed."""

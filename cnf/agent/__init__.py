"""The part of cnf that runs on a member's node: settings, caches, and who wakes whom."""

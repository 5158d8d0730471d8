"""The agent: the cnf process on a member's node, with its settings, caches and the table of who wakes whom."""

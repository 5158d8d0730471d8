"""The blocks of a member's nodes: the leader allocates them, and takes back those that nodes return."""

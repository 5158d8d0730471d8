"""cnf on the hub: forwards between members, and probes them."""
